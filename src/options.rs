//! How a room declares its settings: once, and everything else follows.
//!
//! A leaf: open to every room, imports nothing. [`options!`](crate::options!) turns a struct with documented fields and
//! defaults into the struct itself, its `Default`, and a [`Section`], from which `config` reads files,
//! environment and flags, and from which `--help` and `docs/configuration.md` are printed. A value's type says
//! what may be written ([`Setting`]), so a wrong value is answered with what to write instead.
//!
//! Secrets are a type of their own: [`Secret`] never prints what it holds, and `config` accepts `KEY_file` and
//! `KEY_env` beside each of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A value as somebody wrote it, before it has a type.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// from the environment or a flag: numbers and lists are text there
    Word(String),
    /// a string in a file
    Text(String),
    Integer(i64),
    Bool(bool),
    List(Vec<Raw>),
    /// something else in a file: a table, a float, a date; holds its name
    Other(&'static str),
}

/// A type that a setting can have.
pub trait Setting: Sized {
    /// What to write, e.g. `true or false`; stands after "expected".
    fn expected() -> String;
    /// The value, or `None` when it is not what was expected. Relative paths start at `base`.
    fn read(raw: &Raw, base: &Path) -> Option<Self>;
    /// As one would write it in the file; empty when there is no value.
    fn show(&self) -> String;
    /// Secrets can also be given by `KEY_file` and `KEY_env`.
    const SECRET: bool = false;
}

/// One row of the table of settings.
#[derive(Debug, Clone)]
pub struct Described {
    pub key: &'static str,
    pub expected: String,
    pub default: String,
    pub help: &'static str,
    pub secret: bool,
}

/// The settings of a room. Object safe: one table of a file may be filled by several rooms.
pub trait Section {
    fn settings(&self) -> Vec<Described>;
    /// `None`: no such setting here. `Some(Err(expected))`: the value is not what was expected.
    fn set(&mut self, key: &str, raw: &Raw, base: &Path) -> Option<Result<(), String>>;
}

/// Declares an `Options` struct whose fields are settings: `/// help` then `key: Type = default`.
#[macro_export]
macro_rules! options {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $( $(#[doc = $help:literal])+ $key:ident : $type:ty = $default:expr ),* $(,)?
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $help])+ pub $key: $type ),*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default ),* }
            }
        }

        impl $crate::options::Section for $name {
            fn settings(&self) -> Vec<$crate::options::Described> {
                vec![$( $crate::options::Described {
                    key: stringify!($key),
                    expected: <$type as $crate::options::Setting>::expected(),
                    default: $crate::options::Setting::show(&self.$key),
                    help: concat!($($help),+).trim_ascii(),
                    secret: <$type as $crate::options::Setting>::SECRET,
                } ),*]
            }

            fn set(
                &mut self,
                key: &str,
                raw: &$crate::options::Raw,
                base: &std::path::Path,
            ) -> Option<Result<(), String>> {
                match key {
                    $( stringify!($key) => Some(match <$type as $crate::options::Setting>::read(raw, base) {
                        Some(value) => { self.$key = value; Ok(()) }
                        None => Err(<$type as $crate::options::Setting>::expected()),
                    }), )*
                    _ => None,
                }
            }
        }
    };
}

/// Declares an enum that is written as one of a few words.
#[macro_export]
macro_rules! choice {
    (
        $(#[doc = $about:literal])*
        pub enum $name:ident {
            $( $(#[doc = $help:literal])* $variant:ident = $word:literal ),+ $(,)?
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $( $(#[doc = $help])* $variant ),+
        }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $word ),+ }
            }
        }

        impl $crate::options::Setting for $name {
            fn expected() -> String {
                format!("one of {}", [$( concat!("\"", $word, "\"") ),+].join(", "))
            }
            fn read(raw: &$crate::options::Raw, _: &std::path::Path) -> Option<Self> {
                match raw {
                    $crate::options::Raw::Text(w) | $crate::options::Raw::Word(w) => match w.as_str() {
                        $( $word => Some($name::$variant), )+
                        _ => None,
                    },
                    _ => None,
                }
            }
            fn show(&self) -> String {
                format!("{:?}", self.as_str())
            }
        }
    };
}

/// Text that is never printed: not by `Debug`, not in a table of settings, not in an error.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }
    /// The text itself; call it only where the secret is used.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Setting for Secret {
    fn expected() -> String {
        "a string (or use the same key with _file or _env behind it)".into()
    }
    fn read(raw: &Raw, base: &Path) -> Option<Self> {
        String::read(raw, base).map(Secret)
    }
    fn show(&self) -> String {
        String::new()
    }
    const SECRET: bool = true;
}

impl Setting for bool {
    fn expected() -> String {
        "true or false".into()
    }
    fn read(raw: &Raw, _: &Path) -> Option<Self> {
        match raw {
            Raw::Bool(b) => Some(*b),
            Raw::Word(w) => match w.as_str() {
                "true" | "on" | "1" => Some(true),
                "false" | "off" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! integers {
    ($($type:ty),+) => { $(
        impl Setting for $type {
            fn expected() -> String {
                format!("an integer from {} to {}", <$type>::MIN, if <$type>::BITS > 32 { i64::MAX as u128 } else { <$type>::MAX as u128 })
            }
            fn read(raw: &Raw, _: &Path) -> Option<Self> {
                match raw {
                    Raw::Integer(i) => (*i).try_into().ok(),
                    Raw::Word(w) => w.parse().ok(),
                    _ => None,
                }
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+ };
}
integers!(u16, u32, u64, usize);

impl Setting for String {
    fn expected() -> String {
        "a string".into()
    }
    fn read(raw: &Raw, _: &Path) -> Option<Self> {
        match raw {
            Raw::Text(t) | Raw::Word(t) => Some(t.clone()),
            _ => None,
        }
    }
    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Setting for PathBuf {
    fn expected() -> String {
        "a path (relative ones start at the folder of the configuration file)".into()
    }
    fn read(raw: &Raw, base: &Path) -> Option<Self> {
        match raw {
            Raw::Text(t) if !t.is_empty() => Some(base.join(t)),
            // flags and the environment come from a shell: relative to where it stands
            Raw::Word(t) if !t.is_empty() => Some(PathBuf::from(t)),
            _ => None,
        }
    }
    fn show(&self) -> String {
        if self.as_os_str().is_empty() { String::new() } else { format!("{:?}", self.display().to_string()) }
    }
}

impl<T: Setting> Setting for Option<T> {
    fn expected() -> String {
        T::expected()
    }
    fn read(raw: &Raw, base: &Path) -> Option<Self> {
        T::read(raw, base).map(Some)
    }
    fn show(&self) -> String {
        self.as_ref().map(T::show).unwrap_or_default()
    }
    const SECRET: bool = T::SECRET;
}

impl<T: Setting> Setting for Vec<T> {
    fn expected() -> String {
        format!("a list, each {}", T::expected())
    }
    fn read(raw: &Raw, base: &Path) -> Option<Self> {
        match raw {
            Raw::List(items) => items.iter().map(|i| T::read(i, base)).collect(),
            Raw::Word(w) => w.split(',').map(|i| T::read(&Raw::Word(i.trim().into()), base)).collect(),
            _ => None,
        }
    }
    fn show(&self) -> String {
        format!("[{}]", self.iter().map(T::show).collect::<Vec<_>>().join(", "))
    }
}

impl Setting for Duration {
    fn expected() -> String {
        "a time with its unit: \"250ms\", \"5s\", \"10min\", \"1h\" (\"0s\" switches a limit off)".into()
    }
    fn read(raw: &Raw, _: &Path) -> Option<Self> {
        let (Raw::Text(t) | Raw::Word(t)) = raw else { return None };
        let digits = t.find(|c: char| !c.is_ascii_digit())?;
        let amount: u64 = t[..digits].parse().ok()?;
        let millis = match t[digits..].trim() {
            "ms" => 1,
            "s" => 1_000,
            "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        amount.checked_mul(millis).map(Duration::from_millis)
    }
    fn show(&self) -> String {
        let ms = self.as_millis();
        let (amount, unit) = match ms {
            0 => (0, "s"),
            _ if ms.is_multiple_of(3_600_000) => (ms / 3_600_000, "h"),
            _ if ms.is_multiple_of(60_000) => (ms / 60_000, "min"),
            _ if ms.is_multiple_of(1_000) => (ms / 1_000, "s"),
            _ => (ms, "ms"),
        };
        format!("\"{amount}{unit}\"")
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl Setting for Size {
    fn expected() -> String {
        "a size with its unit: \"64KiB\", \"16MiB\", \"1GiB\"".into()
    }
    fn read(raw: &Raw, _: &Path) -> Option<Self> {
        let (Raw::Text(t) | Raw::Word(t)) = raw else { return None };
        let digits = t.find(|c: char| !c.is_ascii_digit())?;
        let amount: u64 = t[..digits].parse().ok()?;
        let unit: u64 = match t[digits..].trim() {
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        amount.checked_mul(unit).map(Size)
    }
    fn show(&self) -> String {
        let (amount, unit) = match self.0 {
            n if n.is_multiple_of(1 << 30) => (n >> 30, "GiB"),
            n if n.is_multiple_of(1 << 20) => (n >> 20, "MiB"),
            n => (n >> 10, "KiB"),
        };
        format!("\"{amount}{unit}\"")
    }
}

/// The word of `known` that `word` was probably meant to be.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.len() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|k| (distance(word, k), k))
        .filter(|(d, k)| *d <= allowed || k.starts_with(word) || word.starts_with(k))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Edits (insert, delete, replace, swap of neighbours) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::options! {
        /// For the tests.
        pub struct Sample {
            /// how many
            count: u16 = 7,
            /// how long
            wait: Duration = Duration::from_secs(5),
            /// who
            names: Vec<String> = vec![],
            /// hush
            password: Option<Secret> = None,
        }
    }

    fn set(sample: &mut Sample, key: &str, raw: Raw) -> Option<Result<(), String>> {
        sample.set(key, &raw, Path::new("/base"))
    }

    #[test]
    fn one_declaration_gives_defaults_parsing_and_help() {
        let mut sample = Sample::default();
        assert_eq!(sample.count, 7);
        assert_eq!(set(&mut sample, "count", Raw::Integer(9)), Some(Ok(())));
        assert_eq!(set(&mut sample, "wait", Raw::Word("250ms".into())), Some(Ok(())));
        assert_eq!(set(&mut sample, "names", Raw::Word("a, b".into())), Some(Ok(())));
        assert_eq!(sample.count, 9);
        assert_eq!(sample.wait, Duration::from_millis(250));
        assert_eq!(sample.names, ["a", "b"]);
        let table = Sample::default().settings();
        assert_eq!(
            table.iter().map(|s| (s.key, &*s.default)).collect::<Vec<_>>(),
            [("count", "7"), ("wait", "\"5s\""), ("names", "[]"), ("password", "")]
        );
        assert_eq!(table[0].help, "how many");
    }

    #[test]
    fn wrong_values_are_answered_with_what_to_write() {
        let mut sample = Sample::default();
        assert_eq!(
            set(&mut sample, "count", Raw::Integer(70_000)),
            Some(Err("an integer from 0 to 65535".into()))
        );
        assert!(
            matches!(set(&mut sample, "wait", Raw::Text("5".into())), Some(Err(e)) if e.contains("unit"))
        );
        assert!(matches!(set(&mut sample, "wait", Raw::Integer(5)), Some(Err(_))));
        assert!(set(&mut sample, "cuont", Raw::Integer(1)).is_none());
        assert_eq!(sample, Sample::default());
    }

    #[test]
    fn durations_and_sizes_print_as_they_are_read() {
        for text in ["250ms", "5s", "10min", "3h", "0s"] {
            let read = Duration::read(&Raw::Text(text.into()), Path::new("")).unwrap();
            assert_eq!(read.show(), format!("{text:?}"));
        }
        for text in ["64KiB", "16MiB", "3GiB"] {
            let read = Size::read(&Raw::Text(text.into()), Path::new("")).unwrap();
            assert_eq!(read.show(), format!("{text:?}"));
        }
        assert!(Duration::read(&Raw::Text("99999999999999999999h".into()), Path::new("")).is_none());
    }

    #[test]
    fn secrets_do_not_print() {
        let mut sample = Sample::default();
        set(&mut sample, "password", Raw::Text("hunter2".into())).unwrap().unwrap();
        assert!(!format!("{sample:?}").contains("hunter2"));
        assert!(sample.settings().iter().all(|s| !s.default.contains("hunter2")));
        assert_eq!(sample.password.unwrap().reveal(), "hunter2");
    }

    #[test]
    fn near_misses_are_named() {
        let known = ["listen", "max_clients", "workers"];
        assert_eq!(did_you_mean("lisetn", known), Some("listen"));
        assert_eq!(did_you_mean("max_client", known), Some("max_clients"));
        assert_eq!(did_you_mean("password", known), None);
    }
}
