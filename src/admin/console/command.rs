//! From words to a command.

use super::show::Show;
use super::words::Word;
use crate::error::{Error, Result, SqlState};

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Show(Show),
    /// a setting of the configuration, for as long as the process lives or until a reload
    Set {
        key: String,
        value: String,
    },
    /// something that drivers say of themselves at the beginning: it changes nothing here
    Courtesy(&'static str),
    Begin,
    /// of a block without effects; the tag to answer with
    End(&'static str),
    /// Hold every session that asks for a link; answered when no link is out.
    Pause(Scope),
    Resume(Scope),
    /// Take no new sessions.
    Disable(String),
    Enable(String),
    /// End the sessions and links of a database, and pause it.
    Kill(Scope),
    /// End one session, by its number in SHOW CLIENTS.
    KillClient(i32),
    /// Let every link be opened anew.
    Reconnect(Scope),
    /// Answered when the links of before the last RECONNECT have ended.
    WaitClose(Scope),
    Reload,
    Shutdown(Shutdown),
}

/// Which databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    One(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// at once
    Now,
    /// when every session has ended its transaction
    Drain,
    /// when every session has left
    WaitForClients,
}

/// Settings that drivers send unasked, and that mean nothing to a console.
const COURTESIES: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "extra_float_digits",
    "intervalstyle",
    "names",
    "search_path",
    "session",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "time",
];

/// Errors: 42601 when there is no such command.
pub fn parse(words: &[Word]) -> Result<Command> {
    let Some((Word::Plain(verb), rest)) = words.split_first() else { return Err(unknown(words)) };
    match verb.as_str() {
        "show" => Ok(Command::Show(Show::parse(rest).ok_or_else(|| unknown(words))?)),
        "set" => set(rest).ok_or_else(|| unknown(words)),
        "reset" | "discard" if !rest.is_empty() => {
            Ok(Command::Courtesy(if verb == "reset" { "RESET" } else { "DISCARD ALL" }))
        }
        "begin" | "start" => Ok(Command::Begin),
        "commit" | "end" => Ok(Command::End("COMMIT")),
        "rollback" | "abort" => Ok(Command::End("ROLLBACK")),
        "reload" if rest.is_empty() => Ok(Command::Reload),
        "shutdown" => match rest {
            [] => Ok(Command::Shutdown(Shutdown::Now)),
            [how] if how.is("wait_for_servers") => Ok(Command::Shutdown(Shutdown::Drain)),
            [how] if how.is("wait_for_clients") => Ok(Command::Shutdown(Shutdown::WaitForClients)),
            _ => Err(unknown(words)),
        },
        "kill_client" => match rest {
            [number] => number
                .name()
                .and_then(|n| n.parse().ok())
                .map(Command::KillClient)
                .ok_or_else(|| unknown(words)),
            _ => Err(unknown(words)),
        },
        "disable" | "enable" => match (scope(rest), verb.as_str()) {
            (Some(Scope::One(name)), "disable") => Ok(Command::Disable(name)),
            (Some(Scope::One(name)), _) => Ok(Command::Enable(name)),
            (Some(Scope::All), _) => Err(Error::client(SqlState::SYNTAX_ERROR, "a database is required")),
            (None, _) => Err(unknown(words)),
        },
        _ => {
            if verb == "suspend" && rest.is_empty() {
                return Err(Error::unsupported("SUSPEND is not needed")
                    .hint("Start the new process beside this one ([server] reuse_port), then SHUTDOWN WAIT_FOR_SERVERS here."));
            }
            let scope = scope(rest).ok_or_else(|| unknown(words))?;
            match verb.as_str() {
                "pause" => Ok(Command::Pause(scope)),
                "resume" => Ok(Command::Resume(scope)),
                "kill" => Ok(Command::Kill(scope)),
                "reconnect" => Ok(Command::Reconnect(scope)),
                "wait_close" => Ok(Command::WaitClose(scope)),
                _ => Err(unknown(words)),
            }
        }
    }
}

/// `[<db>]`
fn scope(words: &[Word]) -> Option<Scope> {
    match words {
        [] => Some(Scope::All),
        [one] => Some(Scope::One(one.name()?.to_owned())),
        _ => None,
    }
}

/// `key = value`, `key TO value`, and what drivers set.
fn set(words: &[Word]) -> Option<Command> {
    let key = words.first()?.name()?;
    if COURTESIES.contains(&key) {
        return Some(Command::Courtesy("SET"));
    }
    match words {
        [_, sign, value] if *sign == Word::Sign('=') || sign.is("to") => {
            Some(Command::Set { key: key.to_owned(), value: value.name()?.to_owned() })
        }
        _ => None,
    }
}

fn unknown(words: &[Word]) -> Error {
    let said: Vec<String> = words
        .iter()
        .map(|word| match word {
            Word::Plain(text) => text.clone(),
            Word::Quoted(text) => format!("\"{text}\""),
            Word::Sign(c) => c.to_string(),
        })
        .collect();
    let mut said = said.join(" ");
    if let Some((end, _)) = said.char_indices().nth(100) {
        said.truncate(end);
        said.push_str(" ...");
    }
    Error::client(SqlState::SYNTAX_ERROR, format!("invalid command '{said}', use SHOW HELP;"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::console::words;

    fn parsed(text: &str) -> Result<Command> {
        parse(&words::split(text).unwrap()[0])
    }

    #[test]
    fn commands_are_understood() {
        assert_eq!(parsed("show POOLS").unwrap(), Command::Show(Show::Pools));
        assert_eq!(parsed("pause").unwrap(), Command::Pause(Scope::All));
        assert_eq!(parsed("KILL \"App\"").unwrap(), Command::Kill(Scope::One("App".into())));
        assert_eq!(
            parsed("set checkout_timeout to '1s'").unwrap(),
            Command::Set { key: "checkout_timeout".into(), value: "1s".into() }
        );
        assert_eq!(parsed("SET client_encoding TO 'UTF8'").unwrap(), Command::Courtesy("SET"));
        assert_eq!(parsed("SET TIME ZONE 'UTC'").unwrap(), Command::Courtesy("SET"));
        assert_eq!(parsed("shutdown wait_for_clients").unwrap(), Command::Shutdown(Shutdown::WaitForClients));
        assert_eq!(parsed("kill_client 12").unwrap(), Command::KillClient(12));
    }

    #[test]
    fn what_is_no_command_is_said() {
        for text in [
            "select 1",
            "show nothing",
            "pause a b",
            "disable",
            "set a",
            "set a = 1 2",
            "'show' pools",
            "kill_client x",
        ] {
            assert_eq!(parsed(text).unwrap_err().sqlstate(), SqlState::SYNTAX_ERROR, "{text}");
        }
        assert_eq!(parsed("foo").unwrap_err().message(), "invalid command 'foo', use SHOW HELP;");
        assert!(parsed(&"é".repeat(1000)).unwrap_err().message().len() < 300);
    }
}
