//! A mistake and its place.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Mistakes that are listed of one file: nobody reads more, and a side file has a million lines.
const MAX_FINDINGS: usize = 1000;

/// One mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub file: Arc<str>,
    /// 1-based; 0 when the mistake has no place in the text (the file cannot be read)
    pub line: u32,
    /// 1-based, in characters
    pub column: u32,
    /// what is wrong
    pub message: String,
    /// what to write instead
    pub hint: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message)?,
            _ => write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?,
        }
        for (i, line) in self.hint.lines().enumerate() {
            write!(f, "\n  {} {line}", if i == 0 { "hint:" } else { "     " })?;
        }
        Ok(())
    }
}

impl std::error::Error for Finding {}

impl Finding {
    pub(super) fn of_file(path: &Path, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Finding {
            file: path.display().to_string().into(),
            line: 0,
            column: 0,
            message: message.into(),
            hint: hint.into(),
        }
    }
}

/// Findings so far, and what is needed to place them.
pub(super) struct Report<'t> {
    file: Arc<str>,
    text: &'t str,
    /// byte offsets at which lines start
    pub(super) lines: Vec<usize>,
    pub(super) findings: Vec<Finding>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str, path: &Path) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Report { file: path.display().to_string().into(), text, lines, findings: Vec::new() }
    }

    pub(super) fn add(&mut self, at: usize, message: impl Into<String>, hint: impl Into<String>) {
        if self.findings.len() >= MAX_FINDINGS {
            return;
        }
        let line = self.lines.partition_point(|start| *start <= at).max(1);
        let start = self.lines[line - 1];
        let column = self.text.get(start..at).map_or(0, |t| t.chars().count()) + 1;
        self.findings.push(Finding {
            file: self.file.clone(),
            line: line as u32,
            column: column as u32,
            message: message.into(),
            hint: hint.into(),
        });
    }
}
