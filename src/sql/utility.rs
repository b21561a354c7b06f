//! What utility statements name: the table of a COPY, the tables of TRUNCATE, LOCK, VACUUM, DDL. By tokens,
//! because the parser knows few of these statements.

use crate::sql::lex::{Kind, string_value};
use crate::sql::scan::Piece;
pub use crate::sql::words::Name;
use crate::sql::words::Words;
use std::ops::Range;

/// Where COPY reads from or writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// STDIN or STDOUT: the client
    Client,
    /// a file of the server
    File,
    /// a program on the server
    Program,
}

/// `COPY table [(columns)] FROM | TO ...` or `COPY (query) TO ...`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyTarget {
    /// None when a query is copied
    pub table: Option<Name>,
    /// bytes of the query, without its parentheses
    pub query: Option<Range<u32>>,
    /// empty when no list is given
    pub columns: Vec<String>,
    /// FROM: rows go into the table
    pub from: bool,
    pub endpoint: Endpoint,
    /// names in lower case, of both the new and the old syntax: format, delimiter, null, header, quote, escape,
    /// force_quote, force_null, force_not_null, encoding, default, freeze ...; the value as the server would
    /// read it, `*` and lists as written, None when there is none
    pub options: Vec<(String, Option<String>)>,
    /// bytes of the condition after WHERE
    pub condition: Option<Range<u32>>,
}

impl CopyTarget {
    /// The last value given for an option.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| n == name).and_then(|(_, v)| v.as_deref())
    }
    /// FORMAT: text, csv or binary.
    pub fn format(&self) -> &str {
        self.option("format").unwrap_or("text")
    }
}

/// Reads a COPY. None when it is not one, or cannot be read.
pub fn copy_target(text: &str, piece: &Piece) -> Option<CopyTarget> {
    let mut words = Words::of(text, piece);
    if !words.eat("copy") {
        return None;
    }
    let mut copy = CopyTarget {
        table: None,
        query: None,
        columns: Vec::new(),
        from: false,
        endpoint: Endpoint::File,
        options: Vec::new(),
        condition: None,
    };
    if words.at("binary") && words.second().is_some_and(|t| matches!(t.kind, Kind::Word | Kind::Quoted)) {
        // COPY BINARY t; but a table may be called that
        let next = words.second()?;
        if !(words.is(next, "from") || words.is(next, "to")) {
            words.next();
            copy.options.push(("format".to_owned(), Some("binary".to_owned())));
        }
    }
    if words.at_kind(Kind::Open) {
        let start = words.peek()?.end;
        let mut end = start;
        let mut depth = 0u32;
        loop {
            let token = words.next()?;
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            end = token.end;
        }
        copy.query = Some(start..end);
    } else {
        copy.table = Some(words.qualified()?);
        if words.eat_kind(Kind::Open) {
            loop {
                copy.columns.push(words.name()?);
                if !words.eat_kind(Kind::Comma) {
                    break;
                }
            }
            if !words.eat_kind(Kind::Close) {
                return None;
            }
        }
    }
    copy.from = words.eat("from");
    if !copy.from && !words.eat("to") {
        return None;
    }
    if copy.from && copy.table.is_none() {
        return None;
    }
    let program = words.eat("program");
    copy.endpoint = if words.eat("stdin") || words.eat("stdout") {
        Endpoint::Client
    } else {
        match words.next()?.kind {
            Kind::Literal(class) if !class.is_number() => {}
            Kind::UnicodeString => {}
            _ => return None,
        }
        if program { Endpoint::Program } else { Endpoint::File }
    };
    if program && copy.endpoint == Endpoint::Client {
        return None;
    }
    words.copy_options(&mut copy.options)?;
    if words.eat("where") {
        copy.condition = Some(words.peek()?.start..piece.span.end);
        return Some(copy);
    }
    words.done().then_some(copy)
}

impl Words<'_> {
    /// The value of a string, a word in lower case, a quoted identifier, or a number with its sign.
    fn option_value(&mut self) -> Option<String> {
        let token = self.next()?;
        Some(match token.kind {
            Kind::Literal(class) if !class.is_number() => {
                string_value(token.text(self.text), class)?.into_owned()
            }
            Kind::Quoted | Kind::Word => token.name(self.text)?.into_owned(),
            Kind::Literal(_) => token.text(self.text).to_owned(),
            Kind::Operator => match token.text(self.text) {
                "*" => "*".to_owned(),
                sign @ ("-" | "+") => format!("{sign}{}", self.option_value()?),
                _ => return None,
            },
            _ => return None,
        })
    }

    fn copy_options(&mut self, options: &mut Vec<(String, Option<String>)>) -> Option<()> {
        if self.eat_all(&["using", "delimiters"]) || self.eat("delimiters") {
            options.push(("delimiter".to_owned(), Some(self.option_value()?)));
        }
        let _ = self.eat("with");
        if self.eat_kind(Kind::Open) {
            loop {
                let name = self.name()?.to_ascii_lowercase();
                let value = if self.at_kind(Kind::Comma) || self.at_kind(Kind::Close) {
                    None
                } else if self.at_kind(Kind::Open) {
                    let start = self.peek()?.start;
                    let mut end = start;
                    let mut depth = 0u32;
                    loop {
                        let token = self.next()?;
                        match token.kind {
                            Kind::Open => depth += 1,
                            Kind::Close => depth -= 1,
                            _ => {}
                        }
                        end = end.max(token.end);
                        if depth == 0 {
                            break;
                        }
                    }
                    Some(self.text.get(start as usize..end as usize)?.to_owned())
                } else {
                    Some(self.option_value()?)
                };
                options.push((name, value));
                if !self.eat_kind(Kind::Comma) {
                    break;
                }
            }
            return self.eat_kind(Kind::Close).then_some(());
        }
        // the syntax of before 9.0
        while !self.done() && !self.at("where") {
            let name = self.name()?;
            let (name, value) = match name.as_str() {
                "binary" | "csv" => ("format".to_owned(), Some(name)),
                "freeze" | "header" => (name, None),
                "delimiter" | "null" | "quote" | "escape" => {
                    let _ = self.eat("as");
                    (name, Some(self.option_value()?))
                }
                "encoding" => (name, Some(self.option_value()?)),
                "force" => {
                    let name = if self.eat("quote") {
                        "force_quote"
                    } else if self.eat("null") {
                        "force_null"
                    } else if self.eat_all(&["not", "null"]) {
                        "force_not_null"
                    } else {
                        return None;
                    };
                    let mut list = self.option_value()?;
                    while self.eat_kind(Kind::Comma) {
                        list.push(',');
                        list.push_str(&self.option_value()?);
                    }
                    (name.to_owned(), Some(list))
                }
                _ => return None,
            };
            options.push((name, value));
        }
        Some(())
    }

    /// `[ONLY] name [*]`
    fn relation(&mut self) -> Option<Name> {
        // a table may not be called ONLY without quotes
        let parenthesised = self.eat("only") && self.eat_kind(Kind::Open);
        let name = self.qualified()?;
        if parenthesised && !self.eat_kind(Kind::Close) {
            return None;
        }
        let _ = self.eat_operator("*");
        Some(name)
    }

    /// Relations between commas, each with a list of columns perhaps.
    fn relations(&mut self) -> Option<Vec<Name>> {
        let mut names = Vec::new();
        loop {
            names.push(self.relation()?);
            if self.at_kind(Kind::Open) && !self.skip_parentheses() {
                return None;
            }
            if !self.eat_kind(Kind::Comma) {
                return Some(names);
            }
        }
    }

    fn if_exists(&mut self) -> bool {
        if !self.eat("if") {
            return true;
        }
        let _ = self.eat("not");
        self.eat("exists")
    }

    /// The relation after the next ON that is not in parentheses.
    fn relation_after(&mut self, word: &str) -> Option<Vec<Name>> {
        loop {
            if self.at_kind(Kind::Open) {
                if !self.skip_parentheses() {
                    return None;
                }
            } else if self.eat(word) {
                return Some(vec![self.relation()?]);
            } else {
                self.next()?;
            }
        }
    }
}

/// The relations that a utility statement names as the thing it works on or refers to, in order of appearance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// empty: the statement works on none, or (VACUUM) on all
    pub tables: Vec<Name>,
    /// CASCADE: relations beyond those named may be hit
    pub cascade: bool,
}

/// The relations that TRUNCATE, LOCK, VACUUM, ANALYZE, CLUSTER, REINDEX, COPY, COMMENT, GRANT, REVOKE, REFRESH, and
/// CREATE, ALTER and DROP of tables, views, indexes, triggers, policies and rules name. None when not sure; in
/// particular for statements with a query inside.
pub fn tables_named(text: &str, piece: &Piece) -> Option<Named> {
    let mut words = Words::of(text, piece);
    let mut tables = names(&mut words, text, piece)?;
    let mut cascade = false;
    let mut before = words.peek();
    while let Some(token) = words.next() {
        // ON DELETE CASCADE is another matter
        let action = before.is_some_and(|b| {
            b.is_word(text, "delete")
                || b.is_word(text, "update")
                || b.is_word(text, "drop")
                || b.is_word(text, "as")
        });
        cascade |= token.is_word(text, "cascade") && !action;
        // foreign keys
        if token.is_word(text, "references") && !before.is_some_and(|b| b.kind == Kind::Dot) {
            tables.push(words.qualified()?);
        }
        before = Some(token);
    }
    Some(Named { tables, cascade })
}

fn names(words: &mut Words<'_>, text: &str, piece: &Piece) -> Option<Vec<Name>> {
    let first = words.next()?;
    if first.kind != Kind::Word {
        return None;
    }
    match first.text(text).to_ascii_lowercase().as_str() {
        "truncate" => {
            let _ = words.eat("table");
            words.relations()
        }
        "lock" => {
            let _ = words.eat("table");
            words.relations()
        }
        "vacuum" | "analyze" | "analyse" => {
            if words.at_kind(Kind::Open) && !words.skip_parentheses() {
                return None;
            }
            while ["full", "freeze", "verbose", "analyze", "analyse"].iter().any(|w| words.eat(w)) {}
            if words.done() { Some(Vec::new()) } else { words.relations() }
        }
        "cluster" => {
            if words.at_kind(Kind::Open) && !words.skip_parentheses() {
                return None;
            }
            let _ = words.eat("verbose");
            if words.done() {
                return Some(Vec::new());
            }
            let name = words.relation()?;
            // CLUSTER index ON table
            if words.eat("on") { Some(vec![words.relation()?]) } else { Some(vec![name]) }
        }
        "reindex" => {
            if words.at_kind(Kind::Open) && !words.skip_parentheses() {
                return None;
            }
            if !words.eat("table") {
                return None;
            }
            let _ = words.eat("concurrently");
            Some(vec![words.relation()?])
        }
        "refresh" => {
            if !words.eat_all(&["materialized", "view"]) {
                return None;
            }
            let _ = words.eat("concurrently");
            Some(vec![words.relation()?])
        }
        "copy" => {
            let copy = copy_target(text, piece)?;
            // a condition cannot have a query; what is copied out can
            copy.table.map(|t| vec![t])
        }
        "comment" => {
            if !words.eat("on") {
                return None;
            }
            if words.eat("column") {
                return words.column_owner();
            }
            if words.relation_kind() {
                return Some(vec![words.qualified()?]);
            }
            if ["constraint", "trigger", "policy", "rule"].iter().any(|w| words.eat(w)) {
                words.name()?;
                // a constraint of a domain is none of a table
                if !words.eat("on") || words.at("domain") {
                    return None;
                }
                return Some(vec![words.qualified()?]);
            }
            None
        }
        "grant" | "revoke" => {
            loop {
                if words.at_kind(Kind::Open) {
                    if !words.skip_parentheses() {
                        return None;
                    }
                } else if words.eat("on") {
                    break;
                } else if words.at("to") || words.at("from") || words.done() {
                    // membership of a role
                    return Some(Vec::new());
                } else {
                    words.next();
                }
            }
            let _ =
                words.eat("table") || (words.at("sequence") && words.names_follow() && words.eat("sequence"));
            const OTHERS: &[&str] = &[
                "database",
                "domain",
                "foreign",
                "function",
                "language",
                "large",
                "parameter",
                "procedure",
                "routine",
                "schema",
                "tablespace",
                "type",
            ];
            let names_follow = words.names_follow();
            if words.at("all") {
                return None;
            }
            if names_follow && OTHERS.iter().any(|w| words.at(w)) {
                return Some(Vec::new());
            }
            words.relations()
        }
        "drop" => {
            if words.relation_kind() {
                if !words.if_exists() {
                    return None;
                }
                return words.relations();
            }
            if ["trigger", "policy", "rule"].iter().any(|w| words.eat(w)) {
                if !words.if_exists() {
                    return None;
                }
                words.name()?;
                return if words.eat("on") { Some(vec![words.qualified()?]) } else { None };
            }
            None
        }
        "alter" => {
            if words.eat("trigger") || words.eat("policy") || words.eat("rule") {
                if !words.if_exists() {
                    return None;
                }
                words.name()?;
                return if words.eat("on") { Some(vec![words.qualified()?]) } else { None };
            }
            if !words.relation_kind() || words.at("all") || !words.if_exists() {
                return None;
            }
            let mut names = vec![words.relation()?];
            // partitions, parents; foreign keys are found by the caller
            if words.eat("attach") || words.eat("detach") {
                if !words.eat("partition") {
                    return None;
                }
                let _ = words.if_exists();
                names.push(words.qualified()?);
            } else {
                let _ = words.eat("no");
                if words.eat("inherit") {
                    names.push(words.qualified()?);
                }
            }
            Some(names)
        }
        "create" => create(words),
        _ => None,
    }
}

fn create(words: &mut Words<'_>) -> Option<Vec<Name>> {
    let _ = words.eat_all(&["or", "replace"]);
    let _ = words.eat("global") || words.eat("local");
    let _ = words.eat("temp") || words.eat("temporary") || words.eat("unlogged");
    let _ = words.eat("unique");
    let _ = words.eat("constraint");
    if words.eat("index") {
        return words.relation_after("on");
    }
    if words.eat("trigger") {
        // BEFORE UPDATE OF column ... ON table: the first ON
        return words.relation_after("on");
    }
    if words.eat("policy") {
        return words.relation_after("on");
    }
    if !(words.eat("table") || words.eat_all(&["foreign", "table"])) || !words.if_exists() {
        return None;
    }
    let mut names = vec![words.qualified()?];
    if words.eat_all(&["partition", "of"]) {
        names.push(words.qualified()?);
    }
    // the rest: LIKE in the list of columns, INHERITS after it, AS a query
    let mut ahead =
        Words { text: words.text, lexer: words.lexer.clone(), ahead: words.ahead, end: words.end };
    let mut depth = 0u32;
    let mut before: Option<Kind> = None;
    while let Some(token) = ahead.next() {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Word if depth == 0 && (ahead.is(token, "as") || ahead.is(token, "execute")) => return None,
            Kind::Word
                if depth == 1
                    && ahead.is(token, "like")
                    && matches!(before, Some(Kind::Open | Kind::Comma)) =>
            {
                names.push(ahead.qualified()?);
            }
            Kind::Word if depth == 0 && ahead.is(token, "inherits") => {
                if !ahead.eat_kind(Kind::Open) {
                    return None;
                }
                names.append(&mut ahead.relations()?);
                if !ahead.eat_kind(Kind::Close) {
                    return None;
                }
            }
            _ => {}
        }
        before = Some(token.kind);
    }
    Some(names)
}

impl Words<'_> {
    /// The next word is a kind of object and no name: in `GRANT ... ON sequence TO` it is a name.
    fn names_follow(&self) -> bool {
        self.second().is_some_and(|t| {
            matches!(t.kind, Kind::Word | Kind::Quoted) && !self.is(t, "to") && !self.is(t, "from")
        })
    }

    /// TABLE, VIEW, MATERIALIZED VIEW, FOREIGN TABLE, SEQUENCE
    fn relation_kind(&mut self) -> bool {
        if self.eat("table") || self.eat("view") || self.eat("sequence") {
            return true;
        }
        (self.eat("materialized") && self.eat("view")) || (self.eat("foreign") && self.eat("table"))
    }

    /// The table of `[schema.]table.column`.
    fn column_owner(&mut self) -> Option<Vec<Name>> {
        let mut parts = Vec::new();
        loop {
            let span = self.peek()?.span();
            parts.push((self.name()?, span));
            if !self.eat_kind(Kind::Dot) {
                break;
            }
        }
        parts.pop()?;
        let (name, span) = parts.pop()?;
        let (schema, start) = match parts.pop() {
            Some((schema, at)) => (Some(schema), at.start),
            None => (None, span.start),
        };
        parts.is_empty().then(|| vec![Name { schema, name, span: start..span.end }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::scan::Scan;

    fn piece(text: &str) -> Piece {
        let mut scan = Scan::new();
        scan.scan(text, true).unwrap();
        scan.pieces.pop().unwrap()
    }
    fn named(text: &str) -> Option<Vec<String>> {
        let named = tables_named(text, &piece(text))?;
        for name in &named.tables {
            assert!(!text[name.span.start as usize..name.span.end as usize].is_empty());
        }
        Some(
            named
                .tables
                .into_iter()
                .map(|n| match n.schema {
                    Some(schema) => format!("{schema}.{}", n.name),
                    None => n.name,
                })
                .collect(),
        )
    }

    #[test]
    fn tables_of_utility_statements() {
        for (text, tables) in [
            ("truncate a, only S.\"B\" *, c restart identity", "a s.B c"),
            ("lock table only (a) in share mode", "a"),
            ("vacuum (verbose, analyze) a (x, y), b", "a b"),
            ("vacuum full freeze verbose analyze a", "a"),
            ("analyze", ""),
            ("cluster a using i", "a"),
            ("reindex (verbose) table concurrently s.a", "s.a"),
            ("refresh materialized view concurrently m with no data", "m"),
            ("copy s.a (x, y) from stdin", "s.a"),
            ("comment on table a is 'b'", "a"),
            ("comment on column s.a.b is 'b'", "s.a"),
            ("comment on constraint c on a is 'b'", "a"),
            ("grant select (x), insert on a, s.b to public", "a s.b"),
            ("grant select on table a to public", "a"),
            ("revoke usage on schema x from y", ""),
            ("grant a to b", ""),
            ("grant select on domain to b", "domain"),
            ("grant usage on sequence s to b", "s"),
            ("drop table if exists a, s.b cascade", "a s.b"),
            ("drop trigger t on a", "a"),
            ("alter table only a add column b int references c (d)", "a c"),
            ("alter table a attach partition b for values in (1)", "a b"),
            ("alter table a no inherit b", "a b"),
            ("alter materialized view if exists a rename to b", "a"),
            ("create unique index concurrently if not exists i on only s.a using btree (x)", "s.a"),
            ("create index on a (b)", "a"),
            ("create trigger t before update of x on a for each row execute function f()", "a"),
            (
                "create table a (like b including all, c int references d on delete cascade) inherits (e)",
                "a b e d",
            ),
            ("create table a partition of b default", "a b"),
        ] {
            let tables: Vec<String> = tables.split_whitespace().map(str::to_owned).collect();
            assert_eq!(named(text), Some(tables), "{text}");
        }
        for text in [
            "select 1",
            "create table a as select * from b",
            "create view a as select * from b",
            "reindex index i",
            "grant select on all tables in schema s to u",
            "comment on function f(int) is 'x'",
            "alter table all in tablespace x set tablespace y",
            "truncate a.b.c",
            "copy (select * from a) to stdout",
            "drop function f",
        ] {
            assert_eq!(named(text), None, "{text}");
        }
        let cascade = |text: &str| tables_named(text, &piece(text)).unwrap().cascade;
        assert!(cascade("truncate a cascade") && cascade("drop table a cascade"));
        assert!(!cascade("create table a (b int references c on delete cascade)"));
    }

    #[test]
    fn copies() {
        let copy = |text: &str| copy_target(text, &piece(text));
        let c = copy("copy a (b, \"C\") from stdin with (format csv, header true, delimiter E'\\t', force_null (b), null '') where b > 5").unwrap();
        assert_eq!(c.columns, ["b", "C"]);
        assert!(c.from && c.endpoint == Endpoint::Client && c.format() == "csv");
        assert_eq!(c.option("delimiter"), Some("\t"));
        assert_eq!(c.option("force_null"), Some("(b)"));
        assert_eq!(c.option("null"), Some(""));
        assert!(c.condition.is_some());
        let c = copy("copy a to stdout csv header quote as '\"' force quote *").unwrap();
        assert_eq!((c.format(), c.option("quote"), c.option("force_quote")), ("csv", Some("\""), Some("*")));
        let text = "copy (select 1, (2)) to program 'x'";
        let c = copy(text).unwrap();
        let query = c.query.unwrap();
        assert_eq!(&text[query.start as usize..query.end as usize], "select 1, (2)");
        assert_eq!((c.endpoint, c.from), (Endpoint::Program, false));
        assert_eq!(copy("copy binary a from 'f'").unwrap().format(), "binary");
        assert_eq!(copy("copy binary from 'f'").unwrap().table.unwrap().name, "binary");
        assert_eq!(copy("copy a from stdin (format"), None);
        assert_eq!(copy("copy (select 1) from stdin"), None);
        assert_eq!(copy("copy a from nowhere"), None);
    }
}
