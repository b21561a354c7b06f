//! Tokens between the tokenizer and the parser: what the parser does not know, and what makes no difference to routing
//! (`FOR NO KEY UPDATE`, window EXCLUDE, ONLY, OVERRIDING, conflict targets), is left out or said in another way. Nothing is
//! ever printed from the tree, so tokens may go, and come.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

/// What the rewriting of tokens took away and analysis must know.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// WHERE CURRENT OF
    pub cursor: Option<String>,
    /// OVERRIDING USER VALUE: values for identity columns are ignored
    pub overriding_user: bool,
    /// BETWEEN SYMMETRIC, somewhere
    pub symmetric: bool,
    /// SEARCH or CYCLE, somewhere: recursive WITH queries have more columns than they say
    pub more_columns: bool,
}

/// The tokens as the parser is given them.
pub(super) fn rewrite(tokens: Vec<TokenWithSpan>) -> (Vec<TokenWithSpan>, Removed) {
    let tokens: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).collect();
    let mut removed = Removed::default();
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut set_list = SetList::default();
    let mut open = 0usize;
    // parentheses that are closed twice, by how many are open outside
    let mut twice: Vec<usize> = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let words = |n: usize| word(&tokens, i + n);
        let subscript = set_list.subscript(&tokens, i);
        let skip = match words(0) {
            _ if subscript > 0 => subscript,
            Some("for")
                if words(1) == Some("no") && words(2) == Some("key") && words(3) == Some("update") =>
            {
                out.push(tokens[i].clone());
                3
            }
            Some("for") if words(1) == Some("key") && words(2) == Some("share") => {
                out.push(tokens[i].clone());
                2
            }
            Some("only") if !matches!(last_word(&out), Some("row" | "rows" | "read")) => 1,
            Some("variadic") => 1,
            Some("asymmetric") if last_word(&out) == Some("between") => 1,
            Some("symmetric") if last_word(&out) == Some("between") => {
                removed.symmetric = true;
                1
            }
            // orders as bytes, and equal is what has the same bytes: as analysis takes it where it matters
            Some("collate") if is_bytewise(&tokens, i + 1) => 2,
            Some("exclude") if frame_exclusion(&tokens, i) > 0 => frame_exclusion(&tokens, i),
            Some("overriding") if words(2) == Some("value") => {
                removed.overriding_user |= words(1) == Some("user");
                3
            }
            Some("current") if words(1) == Some("of") => {
                removed.cursor = tokens.get(i + 2).and_then(|t| match &t.token {
                    Token::Word(w) if w.quote_style.is_some() => Some(w.value.replace("\"\"", "\"")),
                    Token::Word(w) => Some(w.value.to_ascii_lowercase()),
                    _ => None,
                });
                let mut constant = tokens[i].clone();
                constant.token = keyword("TRUE", Keyword::TRUE);
                out.push(constant);
                3
            }
            Some("conflict") if matches!(tokens.get(i + 1).map(|t| &t.token), Some(Token::LParen)) => {
                out.push(tokens[i].clone());
                let target = conflict_target(&tokens, i + 1);
                out.extend(conflict_columns(&tokens[i + 1..i + 1 + target]));
                target + 1
            }
            Some("any" | "some" | "all")
                if words(2) == Some("values") && tokens[i + 1].token == Token::LParen =>
            {
                // a query as `(SELECT * FROM (VALUES ...))`
                out.extend(tokens[i..i + 2].iter().cloned());
                let select = [
                    keyword("SELECT", Keyword::SELECT),
                    Token::Mul,
                    keyword("FROM", Keyword::FROM),
                    Token::LParen,
                ];
                out.extend(select.map(|token| TokenWithSpan { token, span: tokens[i + 1].span }));
                twice.push(open);
                open += 1;
                2
            }
            Some("using") if let Some((list, alias)) = join_alias(&tokens, i + 1) => {
                out.extend(tokens[i..i + list].iter().cloned());
                let span = tokens[i].span;
                out.extend(
                    [Token::Comma, Token::Word(alias), Token::RParen]
                        .map(|token| TokenWithSpan { token, span }),
                );
                list + 3
            }
            Some("rows") if let Some(from) = rows_from(&tokens, i) => {
                if last_word(&out) != Some("lateral") {
                    out.push(TokenWithSpan {
                        token: keyword("LATERAL", Keyword::LATERAL),
                        span: tokens[i].span,
                    });
                }
                let name =
                    Word { value: ROWS_FROM.to_owned(), quote_style: Some('"'), keyword: Keyword::NoKeyword };
                out.push(TokenWithSpan { token: Token::Word(name), span: tokens[i].span });
                from
            }
            Some("search")
                if last_is_close(&out)
                    && matches!(words(1), Some("depth" | "breadth"))
                    && words(2) == Some("first") =>
            {
                removed.more_columns = true;
                clause_up_to(&tokens, i, "set")
            }
            Some("cycle") if last_is_close(&out) && cycles(&tokens, i) => {
                removed.more_columns = true;
                clause_up_to(&tokens, i, "using")
            }
            // the old way to say that children are read as well
            _ if tokens[i].token == Token::Mul && is_behind_table(&tokens, i) => 1,
            _ => 0,
        };
        if skip == 0 {
            match &tokens[i].token {
                Token::LParen => open += 1,
                Token::RParen => {
                    open = open.saturating_sub(1);
                    if twice.last() == Some(&open) {
                        twice.pop();
                        out.push(tokens[i].clone());
                    }
                }
                _ => {}
            }
            out.push(tokens[i].clone());
            i += 1;
        } else {
            i += skip;
        }
    }
    (out, removed)
}

/// The name by which `ROWS FROM (...)` is called; no function has it.
pub(super) const ROWS_FROM: &str = "\0rows";

/// What stands before the alias of a JOIN ... USING, which becomes a last name of its list; no column is called so.
pub(super) const JOIN_ALIAS: char = '\0';

/// `(a, b) AS j` behind USING: how many tokens come before the closing parenthesis, with USING, and the alias as a name.
fn join_alias(tokens: &[TokenWithSpan], open: usize) -> Option<(usize, Word)> {
    let at = |i: usize| tokens.get(i).map(|t| &t.token);
    if at(open) != Some(&Token::LParen) {
        return None;
    }
    let mut i = open + 1;
    loop {
        let (Some(Token::Word(_)), Some(next)) = (at(i), at(i + 1)) else { return None };
        match next {
            Token::Comma => i += 2,
            Token::RParen => break,
            _ => return None,
        }
    }
    let (close, Some("as"), Some(Token::Word(alias))) = (i + 1, word(tokens, i + 2), at(i + 3)) else {
        return None;
    };
    let name = match alias.quote_style {
        Some(_) => alias.value.clone(),
        None => alias.value.to_ascii_lowercase(),
    };
    let alias =
        Word { value: format!("{JOIN_ALIAS}{name}"), quote_style: Some('"'), keyword: Keyword::NoKeyword };
    Some((close - open + 1, alias))
}

/// `ROWS FROM (f(...), g(...))` that begins there: how many tokens come before its parenthesis. Functions alone in it tell it
/// from a column called "rows" in front of a FROM.
fn rows_from(tokens: &[TokenWithSpan], i: usize) -> Option<usize> {
    let at = |i: usize| tokens.get(i).map(|t| &t.token);
    if word(tokens, i + 1) != Some("from") || at(i + 2) != Some(&Token::LParen) {
        return None;
    }
    let mut next = i + 3;
    loop {
        while let (Some(Token::Word(_)), Some(Token::Period)) = (at(next), at(next + 1)) {
            next += 2;
        }
        let (Some(Token::Word(_)), Some(Token::LParen)) = (at(next), at(next + 1)) else { return None };
        next = closing(tokens, next + 1)? + 1;
        match at(next)? {
            Token::Comma => next += 1,
            Token::RParen => return Some(2),
            _ => return None,
        }
    }
}

fn closing(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (n, token) in tokens[open..].iter().enumerate() {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => {
                depth -= 1;
                if depth == 0 {
                    return Some(open + n);
                }
            }
            _ => {}
        }
    }
    None
}

fn last_is_close(out: &[TokenWithSpan]) -> bool {
    out.last().is_some_and(|t| t.token == Token::RParen)
}

/// `CYCLE a, b SET`
fn cycles(tokens: &[TokenWithSpan], i: usize) -> bool {
    let at = |i: usize| tokens.get(i).map(|t| &t.token);
    let mut i = i + 1;
    while let (Some(Token::Word(_)), Some(Token::Comma)) = (at(i), at(i + 1)) {
        i += 2;
    }
    matches!(at(i), Some(Token::Word(_))) && word(tokens, i + 1) == Some("set")
}

/// Tokens of a clause that ends with that word and a name.
fn clause_up_to(tokens: &[TokenWithSpan], i: usize, last: &str) -> usize {
    let end = (i + 1..tokens.len()).find(|at| word(tokens, *at) == Some(last));
    end.map_or(1, |end| end + 2 - i)
}

fn keyword(value: &str, keyword: Keyword) -> Token {
    Token::Word(Word { value: value.to_owned(), quote_style: None, keyword })
}

/// An unquoted word in lower case, if it is one of those that rewriting looks for.
fn word(tokens: &[TokenWithSpan], i: usize) -> Option<&'static str> {
    const LOOKED_FOR: [&str; 43] = [
        "for",
        "no",
        "key",
        "update",
        "share",
        "only",
        "row",
        "rows",
        "read",
        "variadic",
        "exclude",
        "current",
        "group",
        "ties",
        "others",
        "overriding",
        "user",
        "value",
        "of",
        "conflict",
        "do",
        "between",
        "symmetric",
        "asymmetric",
        "collate",
        "set",
        "from",
        "where",
        "returning",
        "when",
        "join",
        "any",
        "some",
        "all",
        "values",
        "using",
        "lateral",
        "search",
        "cycle",
        "depth",
        "breadth",
        "first",
        "as",
    ];
    match &tokens.get(i)?.token {
        Token::Word(w) if w.quote_style.is_none() => {
            LOOKED_FOR.iter().copied().find(|k| k.eq_ignore_ascii_case(&w.value))
        }
        _ => None,
    }
}

fn last_word(out: &[TokenWithSpan]) -> Option<&'static str> {
    out.len().checked_sub(1).and_then(|i| word(out, i))
}

/// Tokens of a frame's EXCLUDE clause.
fn frame_exclusion(tokens: &[TokenWithSpan], i: usize) -> usize {
    match (word(tokens, i + 1), word(tokens, i + 2)) {
        (Some("current"), Some("row")) | (Some("no"), Some("others")) => 3,
        (Some("group" | "ties"), _) => 2,
        _ => 0,
    }
}

/// Whether the name of a table ends in front of that token: FROM, UPDATE or JOIN and a name.
fn is_behind_table(tokens: &[TokenWithSpan], i: usize) -> bool {
    let name = |back: usize| {
        i.checked_sub(back)
            .is_some_and(|at| matches!(tokens[at].token, Token::Word(_)) && word(tokens, at).is_none())
    };
    let dot = |back: usize| i.checked_sub(back).is_some_and(|at| tokens[at].token == Token::Period);
    let begins = |back: usize| {
        i.checked_sub(back)
            .is_some_and(|at| matches!(word(tokens, at), Some("from" | "update" | "join" | "only")))
    };
    name(1) && (begins(2) || dot(2) && name(3) && begins(4))
}

/// The collations whose order is that of bytes.
fn is_bytewise(tokens: &[TokenWithSpan], i: usize) -> bool {
    let dotted = matches!(tokens.get(i + 1).map(|t| &t.token), Some(Token::Period));
    matches!(&tokens.get(i).map(|t| &t.token), Some(Token::Word(w))
        if w.quote_style == Some('"') && matches!(&*w.value, "C" | "POSIX") && !dotted)
}

/// Where a list behind SET stands, so that subscripts of its targets are told from those in values.
#[derive(Default)]
struct SetList {
    depth: usize,
    /// the depth of the list, and whether a target is due
    at: Option<(usize, bool)>,
}

impl SetList {
    /// Takes note of the next token. How many tokens are a target's subscript: a column that has elements is no key.
    fn subscript(&mut self, tokens: &[TokenWithSpan], i: usize) -> usize {
        let in_list = |depth: usize| self.at.is_some_and(|(at, _)| at == depth);
        match &tokens[i].token {
            Token::LBracket if self.at == Some((self.depth, true)) => {
                let end = tokens[i..].iter().position(|t| t.token == Token::RBracket);
                let nested = |t: &TokenWithSpan| matches!(t.token, Token::LParen | Token::LBracket);
                if let Some(end) = end.filter(|end| !tokens[i + 1..i + end].iter().any(nested)) {
                    return end + 1;
                }
                self.depth += 1;
            }
            Token::LParen | Token::LBracket => self.depth += 1,
            Token::RParen | Token::RBracket => {
                if in_list(self.depth) {
                    self.at = None;
                }
                self.depth = self.depth.saturating_sub(1);
            }
            Token::Eq if in_list(self.depth) => self.at = Some((self.depth, false)),
            Token::Comma if in_list(self.depth) => self.at = Some((self.depth, true)),
            Token::Word(_) => match word(tokens, i) {
                Some("set") => self.at = Some((self.depth, true)),
                Some("from" | "where" | "returning" | "when") if in_list(self.depth) => self.at = None,
                _ => {}
            },
            _ => {}
        }
        0
    }
}

/// A conflict target with nothing but its plain columns; expressions, collations and the predicate are left out.
fn conflict_columns(target: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let Some(open) = target.first() else { return Vec::new() };
    let mut out = vec![open.clone()];
    let mut depth = 0usize;
    for (i, token) in target.iter().enumerate() {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => {
                depth -= 1;
                if depth == 0 {
                    if out.len() == 1 {
                        // the parser wants one: no column is called so
                        out.push(TokenWithSpan { token: Token::Word(nameless()), span: token.span });
                    }
                    out.push(token.clone());
                    break;
                }
            }
            Token::Word(_)
                if depth == 1
                    && matches!(target[i - 1].token, Token::LParen | Token::Comma)
                    && matches!(target.get(i + 1).map(|t| &t.token), Some(Token::RParen | Token::Comma)) =>
            {
                if out.len() > 1 {
                    out.push(TokenWithSpan { token: Token::Comma, span: token.span });
                }
                out.push(token.clone());
            }
            _ => {}
        }
    }
    out
}

fn nameless() -> Word {
    Word { value: String::new(), quote_style: Some('"'), keyword: Keyword::NoKeyword }
}

/// Tokens from the parenthesis of a conflict target up to DO: it names an index.
fn conflict_target(tokens: &[TokenWithSpan], from: usize) -> usize {
    let mut depth = 0usize;
    for (n, token) in tokens[from..].iter().enumerate() {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Word(_) if depth == 0 && word(tokens, from + n) == Some("do") => return n,
            _ => {}
        }
    }
    0
}
