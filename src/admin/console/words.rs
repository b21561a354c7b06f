//! What an operator typed, as words.

use crate::error::{Error, Result, SqlState};

/// A word of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// in lower case
    Plain(String),
    /// in double or single quotes: as it stands
    Quoted(String),
    /// `=`, `,` or another character that is no letter
    Sign(char),
}

impl Word {
    /// The name that the word stands for.
    pub fn name(&self) -> Option<&str> {
        match self {
            Word::Plain(text) | Word::Quoted(text) => Some(text),
            Word::Sign(_) => None,
        }
    }

    /// Whether it is this keyword.
    pub fn is(&self, keyword: &str) -> bool {
        matches!(self, Word::Plain(text) if text == keyword)
    }
}

/// The commands of a message, each as its words; empty ones are left out.
///
/// Errors: 42601 for a quote or comment that does not end.
pub fn split(text: &str) -> Result<Vec<Vec<Word>>> {
    let mut commands = vec![vec![]];
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == ';' {
            commands.push(vec![]);
            rest = &rest[1..];
        } else if c.is_whitespace() {
            rest = &rest[c.len_utf8()..];
        } else if rest.starts_with("--") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = match rest.find("*/") {
                Some(end) => &rest[end + 2..],
                None => return Err(unterminated("comment")),
            };
        } else {
            let (word, used) = word(rest)?;
            if let Some(command) = commands.last_mut() {
                command.push(word);
            }
            rest = &rest[used..];
        }
    }
    commands.retain(|words| !words.is_empty());
    Ok(commands)
}

/// The word at the front, and its length in bytes.
fn word(text: &str) -> Result<(Word, usize)> {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '$' | ':' | '/' | '+');
    match text.chars().next() {
        Some(quote @ ('\'' | '"')) => {
            let mut value = String::new();
            let mut rest = text[1..].char_indices().peekable();
            while let Some((at, c)) = rest.next() {
                if c != quote {
                    value.push(c);
                } else if rest.next_if(|(_, next)| *next == quote).is_some() {
                    value.push(quote);
                } else {
                    return Ok((Word::Quoted(value), at + 2));
                }
            }
            Err(unterminated("quoted word"))
        }
        Some(c) if part(c) => {
            let end = text.find(|c| !part(c)).unwrap_or(text.len());
            Ok((Word::Plain(text[..end].to_lowercase()), end))
        }
        Some(c) => Ok((Word::Sign(c), c.len_utf8())),
        None => Err(unterminated("command")),
    }
}

fn unterminated(what: &str) -> Error {
    Error::client(SqlState::SYNTAX_ERROR, format!("unterminated {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let commands = split(text).unwrap();
        commands.iter().map(|words| format!("{words:?}")).collect()
    }

    #[test]
    fn words_of_commands() {
        assert_eq!(
            shown("SHOW Pools; -- all of them\n/* and */ pause \"My \"\"DB\"\"\";;"),
            [r#"[Plain("show"), Plain("pools")]"#, r#"[Plain("pause"), Quoted("My \"DB\"")]"#]
        );
        assert_eq!(
            shown("set query_timeout='10s'"),
            [r#"[Plain("set"), Plain("query_timeout"), Sign('='), Quoted("10s")]"#]
        );
        assert_eq!(shown(" ; \n"), [""; 0]);
        for open in ["pause 'db", "pause \"db", "/* show pools"] {
            assert_eq!(split(open).unwrap_err().sqlstate(), SqlState::SYNTAX_ERROR, "{open}");
        }
    }
}
