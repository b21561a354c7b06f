//! What a statement is, from its first words. Never wrong, possibly vague: `Other` is an answer.
//!
//! Statements that cannot be what their first words promise (`BEGIN nonsense`) are `Other` too: the server
//! will say what is wrong with them, and nothing here changes a session's state on their account.

use crate::sql::lex::{Kind, Token};
use crate::sql::scan::Piece;
use crate::sql::words::Words;

/// Filled by `classify`. Names are folded as Postgres folds identifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// only comments and space
    Empty,
    /// SELECT, VALUES, TABLE, WITH (also a WITH that writes: analysis tells), parenthesised queries
    Query,
    /// SELECT ... INTO, CREATE TABLE AS is `Ddl`
    Insert,
    Update,
    Delete,
    Merge,
    Copy,
    Begin(Modes),
    /// COMMIT / END, with AND CHAIN
    Commit {
        chain: bool,
    },
    /// ROLLBACK / ABORT, with AND CHAIN
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    PrepareTransaction,
    /// COMMIT PREPARED / ROLLBACK PREPARED
    FinishPrepared,
    /// SET [SESSION|LOCAL] name TO value; `value` is the text after TO or =, verbatim (`DEFAULT` in upper
    /// case). The forms with words of their own have the name of their setting: timezone, client_encoding,
    /// search_path (SET SCHEMA), role, session_authorization, xmloption. Names are in lower case.
    Set {
        scope: SetScope,
        name: String,
        value: String,
    },
    /// SET TRANSACTION ..., SET SESSION CHARACTERISTICS ... (`session`), SET TRANSACTION SNAPSHOT ...
    SetTransaction {
        session: bool,
    },
    /// SET CONSTRAINTS ... DEFERRED | IMMEDIATE
    SetConstraints,
    /// RESET name / RESET ALL (None); names as in `Set`
    Reset(Option<String>),
    Show(String),
    /// DISCARD ALL | PLANS | SEQUENCES | TEMP, in upper case
    Discard(String),
    /// SQL-level prepared statements
    Prepare(String),
    Execute(String),
    /// DEALLOCATE name | ALL (None)
    Deallocate(Option<String>),
    /// EXPLAIN: byte offset where the inner statement begins, and whether it runs it (ANALYZE)
    Explain {
        inner: u32,
        analyze: bool,
    },
    DeclareCursor {
        name: String,
        hold: bool,
    },
    /// FETCH / MOVE
    Fetch,
    CloseCursor,
    Listen(String),
    Unlisten(Option<String>),
    Notify,
    Lock,
    Truncate,
    /// CREATE, ALTER, DROP, GRANT, REVOKE, COMMENT, SECURITY LABEL, REASSIGN, IMPORT, REFRESH ...; `temp` for CREATE TEMP
    Ddl {
        temp: bool,
    },
    /// VACUUM, ANALYZE, CLUSTER, REINDEX, CHECKPOINT
    Maintenance,
    Call,
    Do,
    Load,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetScope {
    Session,
    Local,
}

/// What BEGIN / START TRANSACTION asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes {
    pub isolation: Option<Isolation>,
    pub read_only: Option<bool>,
    pub deferrable: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// What statement `piece` of `text` is.
#[inline]
pub fn classify(text: &str, piece: &Piece) -> Class {
    let bytes = text.as_bytes();
    let start = piece.span.start as usize;
    let end = (piece.span.end as usize).min(bytes.len());
    let mut word = [0u8; 12];
    let mut length = 0;
    while let Some(b) = bytes.get(start + length).filter(|b| b.is_ascii_alphabetic()) {
        let Some(to) = word.get_mut(length) else { return Class::Other };
        *to = b.to_ascii_lowercase();
        length += 1;
    }
    if start >= end {
        return Class::Empty;
    }
    match &word[..length] {
        // `selected` would have been longer, `select_` and `select1` are no keywords
        b"select" | b"with" | b"values" | b"table"
            if !matches!(bytes.get(start + length), Some(b'_' | b'$' | b'0'..=b'9' | 0x80..)) =>
        {
            match piece.into {
                true => made_by_select_into(text, piece),
                false => Class::Query,
            }
        }
        b"" if bytes[start] == b'(' => match piece.into {
            true => made_by_select_into(text, piece),
            false => Class::Query,
        },
        _ => Words::of(text, piece).statement().unwrap_or(Class::Other),
    }
}

/// A query with the word INTO somewhere: SELECT ... INTO, or only an INSERT inside a WITH?
fn made_by_select_into(text: &str, piece: &Piece) -> Class {
    let mut words = Words::of(text, piece);
    let mut before = "";
    while let Some(token) = words.next() {
        let name = token.kind == Kind::Dot
            || words.is(token, "as")
            || words.is(token, "insert")
            || words.is(token, "merge");
        if words.is(token, "into") && before != "name" {
            let _ = words.eat("local") || words.eat("global");
            return Class::Ddl { temp: words.eat("temp") || words.eat("temporary") || words.eat("pg_temp") };
        }
        before = if name { "name" } else { "" };
    }
    Class::Query
}

/// Where the statement inside begins: of EXPLAIN, PREPARE ... AS, DECLARE ... FOR.
pub fn inner_statement(text: &str, piece: &Piece) -> Option<u32> {
    let mut words = Words::of(text, piece);
    if words.eat("explain") {
        return match words.explain()? {
            Class::Explain { inner, .. } => Some(inner),
            _ => None,
        };
    }
    let until = if words.eat("prepare") {
        "as"
    } else if words.eat("declare") {
        "for"
    } else {
        return None;
    };
    // the name may be spelt like the keyword that ends the head
    words.name()?;
    let mut depth = 0u32;
    while let Some(token) = words.next() {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Word if depth == 0 && words.is(token, until) => return Some(words.peek()?.start),
            _ => {}
        }
    }
    None
}

/// The options of `EXPLAIN (a, b off) ...` in lower case, or the words ANALYZE and VERBOSE of the old form.
pub fn explain_options(text: &str, piece: &Piece) -> Vec<(String, Option<String>)> {
    let mut words = Words::of(text, piece);
    if !words.eat("explain") {
        return Vec::new();
    }
    words.explain_options().unwrap_or_default()
}

impl Words<'_> {
    fn statement(&mut self) -> Option<Class> {
        let first = self.next()?;
        if first.kind != Kind::Word {
            return None;
        }
        let word = first.text(self.text).to_ascii_lowercase();
        Some(match word.as_str() {
            "select" | "with" | "values" | "table" => Class::Query,
            "insert" => Class::Insert,
            "update" => Class::Update,
            "delete" => Class::Delete,
            "merge" => Class::Merge,
            "copy" => Class::Copy,
            "begin" => {
                let _ = self.eat("work") || self.eat("transaction");
                Class::Begin(self.modes()?)
            }
            "start" => {
                if !self.eat("transaction") {
                    return None;
                }
                Class::Begin(self.modes()?)
            }
            "commit" if self.eat("prepared") => Class::FinishPrepared,
            "commit" | "end" => {
                let _ = self.eat("work") || self.eat("transaction");
                Class::Commit { chain: self.chain()? }
            }
            "rollback" if self.eat("prepared") => Class::FinishPrepared,
            "rollback" | "abort" => {
                let _ = self.eat("work") || self.eat("transaction");
                if word == "rollback" && self.eat("to") {
                    return Some(Class::RollbackTo(self.savepoint()?));
                }
                Class::Rollback { chain: self.chain()? }
            }
            "savepoint" => Class::Savepoint(self.last_id()?),
            "release" => Class::Release(self.savepoint()?),
            "prepare" => {
                let name = self.id()?;
                match self.peek()?.kind {
                    Kind::Literal(_) | Kind::UnicodeString if name == "transaction" => {
                        Class::PrepareTransaction
                    }
                    Kind::Open => Class::Prepare(name),
                    _ if self.at("as") => Class::Prepare(name),
                    _ => return None,
                }
            }
            "execute" => Class::Execute(self.id()?),
            "deallocate" => {
                if self.at("prepare") && self.second().is_some() {
                    self.next();
                }
                if self.at("all") {
                    self.next();
                    return self.done().then_some(Class::Deallocate(None));
                }
                Class::Deallocate(Some(self.last_id()?))
            }
            "set" => return self.set(),
            "reset" => {
                let name = self.setting()?;
                if !self.done() {
                    return None;
                }
                Class::Reset((name != "all").then_some(name))
            }
            "show" => {
                let name = self.setting()?;
                if !self.done() {
                    return None;
                }
                Class::Show(name)
            }
            "discard" => {
                let what = self.last_name()?.to_ascii_uppercase();
                match what.as_str() {
                    "TEMPORARY" => Class::Discard("TEMP".to_owned()),
                    "ALL" | "PLANS" | "SEQUENCES" | "TEMP" => Class::Discard(what),
                    _ => return None,
                }
            }
            "explain" => return self.explain(),
            "declare" => {
                let name = self.name()?;
                while !self.eat("cursor") {
                    self.next()?;
                }
                let hold = self.eat("with") && self.eat("hold");
                Class::DeclareCursor { name, hold }
            }
            "fetch" | "move" => Class::Fetch,
            "close" => Class::CloseCursor,
            "listen" => Class::Listen(self.last_id()?),
            "unlisten" => {
                if self.eat_operator("*") {
                    return self.done().then_some(Class::Unlisten(None));
                }
                Class::Unlisten(Some(self.last_id()?))
            }
            "notify" => Class::Notify,
            "lock" => Class::Lock,
            "truncate" => Class::Truncate,
            "create" => Class::Ddl { temp: self.creates_temporary() },
            "alter" | "drop" | "grant" | "revoke" | "comment" | "reassign" | "import" | "refresh"
            | "security" => Class::Ddl { temp: false },
            "vacuum" | "analyze" | "analyse" | "cluster" | "reindex" | "checkpoint" => Class::Maintenance,
            "call" => Class::Call,
            "do" => Class::Do,
            "load" => Class::Load,
            _ => return None,
        })
    }

    /// Transaction modes up to the end of the statement.
    fn modes(&mut self) -> Option<Modes> {
        let mut modes = Modes::default();
        while !self.done() {
            if self.eat("isolation") {
                if !self.eat("level") {
                    return None;
                }
                modes.isolation = Some(if self.eat("serializable") {
                    Isolation::Serializable
                } else if self.eat_all(&["repeatable", "read"]) {
                    Isolation::RepeatableRead
                } else if self.eat("read") {
                    match (self.eat("committed"), self.eat("uncommitted")) {
                        (true, false) => Isolation::ReadCommitted,
                        (false, true) => Isolation::ReadUncommitted,
                        _ => return None,
                    }
                } else {
                    return None;
                });
            } else if self.eat("read") {
                modes.read_only = Some(match (self.eat("only"), self.eat("write")) {
                    (true, false) => true,
                    (false, true) => false,
                    _ => return None,
                });
            } else if self.eat("deferrable") {
                modes.deferrable = Some(true);
            } else if self.eat_all(&["not", "deferrable"]) {
                modes.deferrable = Some(false);
            } else {
                return None;
            }
            if self.eat_kind(Kind::Comma) && self.done() {
                return None;
            }
        }
        Some(modes)
    }

    /// AND [NO] CHAIN, or nothing, up to the end.
    fn chain(&mut self) -> Option<bool> {
        if self.done() {
            return Some(false);
        }
        if !self.eat("and") {
            return None;
        }
        let no = self.eat("no");
        (self.eat("chain") && self.done()).then_some(!no)
    }

    /// [SAVEPOINT] name, where the name may be `savepoint`.
    fn savepoint(&mut self) -> Option<String> {
        if self.at("savepoint") && self.second().is_some() {
            self.next();
        }
        self.last_name()
    }

    /// The name of a setting in RESET and SHOW.
    fn setting(&mut self) -> Option<String> {
        let spelt = |words: &[&str], this: &mut Self| {
            let mut ahead =
                Words { text: this.text, lexer: this.lexer.clone(), ahead: this.ahead, end: this.end };
            let yes = ahead.eat_all(words) && ahead.done();
            if yes {
                *this = ahead;
            }
            yes
        };
        if spelt(&["time", "zone"], self) {
            return Some("timezone".to_owned());
        }
        if spelt(&["transaction", "isolation", "level"], self) {
            return Some("transaction_isolation".to_owned());
        }
        if spelt(&["session", "authorization"], self) {
            return Some("session_authorization".to_owned());
        }
        self.dotted()
    }

    /// name[.name ...] in lower case: settings are looked up without regard to case.
    fn dotted(&mut self) -> Option<String> {
        let mut name = self.name()?.to_ascii_lowercase();
        while self.eat_kind(Kind::Dot) {
            name.push('.');
            name.push_str(&self.name()?.to_ascii_lowercase());
        }
        Some(name)
    }

    fn set(&mut self) -> Option<Class> {
        let named = |token: Option<Token>, text: &str| {
            token.is_some_and(|t| t.kind == Kind::Dot || t.is_operator(text, "=") || t.is_word(text, "to"))
        };
        let mut scope = SetScope::Session;
        if self.at("constraints") && !named(self.second(), self.text) {
            return Some(Class::SetConstraints);
        }
        if self.at("session") && !named(self.second(), self.text) {
            if self.second().is_some_and(|t| self.is(t, "characteristics")) {
                return Some(Class::SetTransaction { session: true });
            }
            if !self.second().is_some_and(|t| self.is(t, "authorization")) {
                self.next();
            }
        } else if self.at("local") && !named(self.second(), self.text) {
            self.next();
            scope = SetScope::Local;
        }
        let set = |name: &str, value: &str| {
            let value = if value.eq_ignore_ascii_case("default") { "DEFAULT" } else { value };
            (!value.is_empty()).then(|| Class::Set { scope, name: name.to_owned(), value: value.to_owned() })
        };
        if !named(self.second(), self.text) {
            if self.eat("transaction") {
                return Some(Class::SetTransaction { session: false });
            }
            if self.eat_all(&["time", "zone"]) {
                let value = self.rest();
                return set("timezone", if value.eq_ignore_ascii_case("local") { "DEFAULT" } else { value });
            }
            if self.eat("names") {
                let value = self.rest();
                return set("client_encoding", if value.is_empty() { "DEFAULT" } else { value });
            }
            if self.eat("schema") {
                return set("search_path", self.rest());
            }
            if self.eat("role") {
                return set("role", self.rest());
            }
            if self.eat("session") {
                return if self.eat("authorization") {
                    set("session_authorization", self.rest())
                } else {
                    None
                };
            }
            if self.eat("xml") {
                return if self.eat("option") { set("xmloption", self.rest()) } else { None };
            }
        }
        let name = self.dotted()?;
        if !(self.eat_operator("=") || self.eat("to")) {
            return None;
        }
        set(&name, self.rest())
    }

    /// After EXPLAIN.
    fn explain(&mut self) -> Option<Class> {
        let options = self.explain_options()?;
        let mut analyze = false;
        for (name, value) in &options {
            if name == "analyze" || name == "analyse" {
                analyze = !matches!(value.as_deref(), Some("false" | "off" | "0"));
            }
        }
        Some(Class::Explain { inner: self.peek()?.start, analyze })
    }

    fn explain_options(&mut self) -> Option<Vec<(String, Option<String>)>> {
        let mut options = Vec::new();
        if self.at_kind(Kind::Open) {
            let first = self.second()?;
            let query = first.kind == Kind::Open
                || ["select", "with", "table", "values"].iter().any(|w| self.is(first, w));
            if query {
                return Some(options);
            }
            self.next();
            loop {
                let name = self.name()?.to_ascii_lowercase();
                let mut value = None;
                while !(self.at_kind(Kind::Comma) || self.at_kind(Kind::Close)) {
                    let token = self.next()?;
                    let text = match token.kind {
                        Kind::Literal(class) if !class.is_number() => {
                            crate::sql::lex::string_value(token.text(self.text), class)?.to_ascii_lowercase()
                        }
                        Kind::Quoted => token.name(self.text)?.to_ascii_lowercase(),
                        _ => token.text(self.text).to_ascii_lowercase(),
                    };
                    match &mut value {
                        None => value = Some(text),
                        Some(value) => value.push_str(&text),
                    }
                }
                options.push((name, value));
                if self.next()?.kind == Kind::Close {
                    return Some(options);
                }
            }
        }
        if self.eat("analyze") || self.eat("analyse") {
            options.push(("analyze".to_owned(), None));
        }
        if self.eat("verbose") {
            options.push(("verbose".to_owned(), None));
        }
        Some(options)
    }

    /// After CREATE: TEMP in its place, or a name in the schema of temporary tables.
    fn creates_temporary(&mut self) -> bool {
        let _ = self.eat_all(&["or", "replace"]);
        let _ = self.eat("global") || self.eat("local");
        if self.at("temp") || self.at("temporary") {
            return true;
        }
        // the name comes after a handful of words: OR REPLACE MATERIALIZED VIEW IF NOT EXISTS
        for _ in 0..8 {
            let Some(token) = self.next() else { return false };
            if self.at_kind(Kind::Dot) {
                return token.name(self.text).is_some_and(|n| n == "pg_temp");
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::scan::Scan;

    fn class(text: &str) -> Class {
        let mut scan = Scan::new();
        scan.scan(text, true).unwrap();
        assert!(scan.pieces.len() <= 1, "{text}");
        classify(text, &scan.pieces.pop().unwrap_or_default())
    }
    fn set(scope: SetScope, name: &str, value: &str) -> Class {
        Class::Set { scope, name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn queries() {
        for text in
            ["select 1", "(select 1)", "values (1)", "table t", "with a as (insert into t select 1) select 1"]
        {
            assert_eq!(class(text), Class::Query, "{text}");
        }
        assert_eq!(class("select 1 as a into b from c"), Class::Ddl { temp: false });
        assert_eq!(class("(select 1 into temp b)"), Class::Ddl { temp: true });
        assert_eq!(
            class("with x as (select 1) select * into temporary table y from x"),
            Class::Ddl { temp: true }
        );
        assert_eq!(class("select t.into, 1 as into from t"), Class::Query);
        assert_eq!(class(" -- nothing"), Class::Empty);
        assert_eq!(class("selects 1"), Class::Other);
        assert_eq!(class("select_1"), Class::Other);
        assert_eq!(class("\"select\" 1"), Class::Other);
    }

    #[test]
    fn transactions() {
        let modes =
            |isolation, read_only, deferrable| Class::Begin(Modes { isolation, read_only, deferrable });
        assert_eq!(class("BEGIN"), Class::Begin(Modes::default()));
        assert_eq!(class("begin work"), Class::Begin(Modes::default()));
        assert_eq!(
            class("start transaction isolation level repeatable read, read only not deferrable"),
            modes(Some(Isolation::RepeatableRead), Some(true), Some(false))
        );
        assert_eq!(
            class("begin isolation level read uncommitted read write"),
            modes(Some(Isolation::ReadUncommitted), Some(false), None)
        );
        assert_eq!(class("begin transaction isolation level"), Class::Other);
        assert_eq!(class("begin read only,"), Class::Other);
        assert_eq!(class("start"), Class::Other);
        assert_eq!(class("end transaction and no chain"), Class::Commit { chain: false });
        assert_eq!(class("commit and chain"), Class::Commit { chain: true });
        assert_eq!(class("commit nonsense"), Class::Other);
        assert_eq!(class("abort work and chain"), Class::Rollback { chain: true });
        assert_eq!(class("rollback"), Class::Rollback { chain: false });
        assert_eq!(class("rollback transaction to savepoint A"), Class::RollbackTo("a".to_owned()));
        assert_eq!(class("rollback to \"A\"\"b\""), Class::RollbackTo("A\"b".to_owned()));
        assert_eq!(class("release savepoint"), Class::Release("savepoint".to_owned()));
        assert_eq!(class("release savepoint x"), Class::Release("x".to_owned()));
        assert_eq!(class("savepoint x y"), Class::Other);
        assert_eq!(class("prepare transaction 'x'"), Class::PrepareTransaction);
        assert_eq!(class("prepare transaction as select 1"), Class::Prepare("transaction".to_owned()));
        assert_eq!(class("commit prepared 'x'"), Class::FinishPrepared);
        assert_eq!(class("rollback prepared 'x'"), Class::FinishPrepared);
    }

    #[test]
    fn settings() {
        use SetScope::*;
        assert_eq!(class("set search_path to a, \"B\""), set(Session, "search_path", "a, \"B\""));
        assert_eq!(class("SET LOCAL Statement_Timeout = 5"), set(Local, "statement_timeout", "5"));
        assert_eq!(class("set session \"DateStyle\" = default"), set(Session, "datestyle", "DEFAULT"));
        assert_eq!(class("set pgweir.shard = 's1'"), set(Session, "pgweir.shard", "'s1'"));
        assert_eq!(class("set local.x to 1"), set(Session, "local.x", "1"));
        assert_eq!(class("set time zone 'UTC'"), set(Session, "timezone", "'UTC'"));
        assert_eq!(class("set local time zone local"), set(Local, "timezone", "DEFAULT"));
        assert_eq!(class("set names 'utf8'"), set(Session, "client_encoding", "'utf8'"));
        assert_eq!(class("set names"), set(Session, "client_encoding", "DEFAULT"));
        assert_eq!(class("set schema 'x'"), set(Session, "search_path", "'x'"));
        assert_eq!(class("set role none"), set(Session, "role", "none"));
        assert_eq!(class("set role to bob"), set(Session, "role", "bob"));
        assert_eq!(class("set session authorization bob"), set(Session, "session_authorization", "bob"));
        assert_eq!(
            class("set local session authorization default"),
            set(Local, "session_authorization", "DEFAULT")
        );
        assert_eq!(class("set xml option content"), set(Session, "xmloption", "content"));
        assert_eq!(class("set transaction read only"), Class::SetTransaction { session: false });
        assert_eq!(class("set local transaction read only"), Class::SetTransaction { session: false });
        assert_eq!(
            class("set session characteristics as transaction read only"),
            Class::SetTransaction { session: true }
        );
        assert_eq!(class("set constraints all deferred"), Class::SetConstraints);
        assert_eq!(class("set x from current"), Class::Other);
        assert_eq!(class("set x"), Class::Other);
        assert_eq!(class("set x ="), Class::Other);
        assert_eq!(class("reset all"), Class::Reset(None));
        assert_eq!(class("reset time zone"), Class::Reset(Some("timezone".to_owned())));
        assert_eq!(class("reset a.B"), Class::Reset(Some("a.b".to_owned())));
        assert_eq!(class("show TimeZone"), Class::Show("timezone".to_owned()));
        assert_eq!(
            class("show transaction isolation level"),
            Class::Show("transaction_isolation".to_owned())
        );
        assert_eq!(class("discard temporary"), Class::Discard("TEMP".to_owned()));
        assert_eq!(class("discard nothing"), Class::Other);
    }

    #[test]
    fn statements_with_statements_inside() {
        let inner = |text: &'static str| {
            let mut scan = Scan::new();
            scan.scan(text, true).unwrap();
            inner_statement(text, &scan.pieces[0]).map(|at| &text[at as usize..])
        };
        assert_eq!(class("explain select 1"), Class::Explain { inner: 8, analyze: false });
        assert_eq!(class("explain analyze verbose select 1"), Class::Explain { inner: 24, analyze: true });
        assert_eq!(
            class("explain (analyze false, costs off) select 1"),
            Class::Explain { inner: 35, analyze: false }
        );
        assert_eq!(
            class("explain (format json, analyze) select 1"),
            Class::Explain { inner: 31, analyze: true }
        );
        assert_eq!(class("explain (analyze 'OFF') select 1"), Class::Explain { inner: 24, analyze: false });
        assert_eq!(class("explain (select 1)"), Class::Explain { inner: 8, analyze: false });
        assert_eq!(class("explain"), Class::Other);
        assert_eq!(class("prepare P (int) as select 1"), Class::Prepare("p".to_owned()));
        assert_eq!(inner("prepare P (int) as select 1"), Some("select 1"));
        assert_eq!(
            inner("declare \"for\" cursor with hold for select 1 for update"),
            Some("select 1 for update")
        );
        assert_eq!(
            class("declare c no scroll cursor with hold for select 1"),
            Class::DeclareCursor { name: "c".to_owned(), hold: true }
        );
        assert_eq!(class("deallocate prepare"), Class::Deallocate(Some("prepare".to_owned())));
        assert_eq!(class("deallocate prepare all"), Class::Deallocate(None));
        assert_eq!(class("deallocate \"all\""), Class::Deallocate(Some("all".to_owned())));
        assert_eq!(class("execute p(1)"), Class::Execute("p".to_owned()));
    }

    #[test]
    fn the_rest() {
        assert_eq!(class("create or replace temp view v as select 1"), Class::Ddl { temp: true });
        assert_eq!(class("create table if not exists pg_temp.x (a int)"), Class::Ddl { temp: true });
        assert_eq!(class("create unlogged table x (a int)"), Class::Ddl { temp: false });
        assert_eq!(class("unlisten *"), Class::Unlisten(None));
        assert_eq!(class("listen A"), Class::Listen("a".to_owned()));
        assert_eq!(class("vacuum"), Class::Maintenance);
        assert_eq!(class("move 5 in c"), Class::Fetch);
    }
}
