//! Custom settings (`app.tenant`) that other sessions have made on a link.
//!
//! A server keeps the name of a custom setting for as long as the connection lives: once it is reset, `current_setting('app.tenant', true)` is
//! '' there, and NULL on a server session that never had it. So a statement that asks for a name which its session has not made is not
//! run on a link where another one has: such a link ends, and the statement gets another. A name that the session has made elsewhere
//! is made there. What functions, views and
//! policies ask for is not seen, nor is a link changed within a block.

use crate::plan::Template;
use crate::session::run::{Served, Session, Trouble};
use crate::shards::ShardId;
use crate::sql::class::Class;
use crate::sql::lex::{Kind, Lexer, string_value};
use std::time::Instant;

/// The names of settings that a statement asks for. `None` among them: one that is not said in its text.
pub(super) fn asked(template: &Template, text: &str) -> Vec<Option<String>> {
    if !template.asks_settings {
        return Vec::new();
    }
    if let Class::Show(name) = &template.class {
        return vec![Some(name.clone())];
    }
    let mut tokens = Vec::new();
    let mut lexer = Lexer::new(text, true);
    while let Ok(Some(token)) = lexer.next_token() {
        tokens.push(token);
    }
    let calls = tokens
        .windows(3)
        .filter(|w| w[0].name(text).is_some_and(|name| name == "current_setting") && w[1].kind == Kind::Open);
    let literal = |w: &[crate::sql::lex::Token]| match w[2].kind {
        Kind::Literal(class) if !class.is_number() => string_value(w[2].text(text), class),
        _ => None,
    };
    calls.map(|w| literal(w).map(|name| name.to_ascii_lowercase())).collect()
}

/// Gets a link for a statement that asks for these, on which no other session has made them.
pub(super) async fn avoid(s: &mut Session, shard: ShardId, asked: Vec<Option<String>>) -> Served<()> {
    if asked.is_empty() || s.txn.holds(shard) {
        return Ok(());
    }
    // What is still owed is awaited before: behind this the link must not go back.
    s.drain().await?;
    if s.run.skipping {
        return Err(Trouble::Told);
    }
    let deadline = Instant::now() + s.database.options().checkout_timeout;
    loop {
        s.txn.lease(shard, deadline).await?;
        if !s.txn.meets_placeholders(shard, &asked) {
            s.txn.names_placeholders(shard, &asked);
            return Ok(());
        }
        s.txn.exchange(shard);
    }
}
