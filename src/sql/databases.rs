//! Statements that a server runs only while nobody else is connected to the database that they name.

use crate::sql::lex::{Kind, string_value};
use crate::sql::scan::Piece;
use crate::sql::words::Words;

/// What is to become of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// DROP DATABASE
    Drop,
    /// the same with FORCE: the server ends other sessions itself
    Force,
    /// ALTER DATABASE ... RENAME TO, SET TABLESPACE
    Alter,
    /// it is the template of CREATE DATABASE
    Copy,
}

/// The database that nobody else may be connected to, and why. `None`: any other statement, or one that no server would run.
pub fn wanted_alone(text: &str, piece: &Piece) -> Option<(Plan, String)> {
    let mut words = Words::of(text, piece);
    if words.eat_all(&["drop", "database"]) {
        if words.eat("if") && !words.eat("exists") {
            return None;
        }
        let name = words.name()?;
        let mut plan = Plan::Drop;
        while let Some(token) = words.next() {
            if words.is(token, "force") {
                plan = Plan::Force;
            }
        }
        return Some((plan, name));
    }
    let mut words = Words::of(text, piece);
    if words.eat_all(&["alter", "database"]) {
        let name = words.name()?;
        let alone = words.eat("rename") || (words.eat("set") && words.eat("tablespace"));
        return alone.then_some((Plan::Alter, name));
    }
    let mut words = Words::of(text, piece);
    if !words.eat_all(&["create", "database"]) {
        return None;
    }
    words.name()?;
    let mut template = "template1".to_owned();
    while let Some(token) = words.next() {
        if !words.is(token, "template") {
            continue;
        }
        let _ = words.eat_operator("=");
        if words.at("default") {
            continue;
        }
        let value = words.peek()?;
        template = match value.kind {
            Kind::Literal(class) if !class.is_number() => string_value(value.text(text), class)?.into_owned(),
            _ => words.name()?,
        };
    }
    Some((Plan::Copy, template))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::scan::Scan;

    #[test]
    fn who_must_leave_is_read() {
        let read = |text: &str| {
            let mut scan = Scan::new();
            assert!(scan.scan(text, true).is_ok());
            wanted_alone(text, &scan.pieces[0])
        };
        let is =
            |text: &str, plan, name: &str| assert_eq!(read(text), Some((plan, name.to_owned())), "{text}");
        is("DROP DATABASE shop", Plan::Drop, "shop");
        is("drop database if exists \"My Shop\";", Plan::Drop, "My Shop");
        is("DROP DATABASE shop WITH (FORCE)", Plan::Force, "shop");
        is("DROP DATABASE shop (force)", Plan::Force, "shop");
        is("ALTER DATABASE Shop RENAME TO other", Plan::Alter, "shop");
        is("ALTER DATABASE shop SET TABLESPACE fast", Plan::Alter, "shop");
        is("CREATE DATABASE shop", Plan::Copy, "template1");
        is("CREATE DATABASE shop WITH OWNER app TEMPLATE = other ENCODING 'UTF8'", Plan::Copy, "other");
        is("CREATE DATABASE shop TEMPLATE 'It''s'", Plan::Copy, "It's");
        is("CREATE DATABASE shop TEMPLATE DEFAULT", Plan::Copy, "template1");
        for text in [
            "ALTER DATABASE shop SET work_mem = '1MB'",
            "ALTER DATABASE shop OWNER TO app",
            "DROP TABLE shop",
            "CREATE TABLE database (name text)",
            "DROP DATABASE IF shop",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
