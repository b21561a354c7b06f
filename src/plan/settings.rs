//! What a call of set_config() makes: its arguments, read where they stand.

use super::{Encodings, Params, Statement};
use crate::sql::facts::{MadeSetting, Operand, OperandSource, Switch};
use crate::sql::lex::string_value;
use crate::wire::values::oid;
use std::borrow::Cow;

/// OID of boolean.
const BOOL: u32 = 16;
/// OID of the type that a constant without one has.
const UNKNOWN: u32 = 705;

/// What a statement makes by set_config().
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// It is none that only makes settings.
    None,
    /// It makes some, and they cannot be read from here.
    Unknown,
    Made(Vec<Setting>),
}

/// One setting that is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// in lower case, as names of settings are compared
    pub name: String,
    /// `None`: what it is when nothing is set
    pub value: Option<String>,
    /// until the end of the transaction
    pub local: bool,
}

pub(super) fn of(
    made: &[MadeSetting],
    statement: &Statement<'_>,
    params: &Params<'_>,
    encodings: Encodings,
) -> Settings {
    if made.is_empty() {
        return Settings::None;
    }
    let inputs = Arguments { statement, params, encodings };
    match made.iter().map(|m| inputs.setting(m)).collect() {
        Some(settings) => Settings::Made(settings),
        None => Settings::Unknown,
    }
}

struct Arguments<'a> {
    statement: &'a Statement<'a>,
    params: &'a Params<'a>,
    encodings: Encodings,
}

impl<'a> Arguments<'a> {
    fn setting(&self, made: &'a MadeSetting) -> Option<Setting> {
        let local = match &made.local {
            Switch::Known(local) => *local,
            Switch::Given(operand) => self.boolean(operand)?,
        };
        let name = self.text(&made.name)??.to_lowercase();
        Some(Setting { name, value: self.text(&made.value)?.map(Cow::into_owned), local })
    }

    /// `Some(None)` is NULL.
    fn text(&self, operand: &'a Operand) -> Option<Option<Cow<'a, str>>> {
        match &operand.source {
            OperandSource::Null => Some(None),
            OperandSource::Literal { index, class } => {
                let value = string_value(self.statement.literal_text(*index), *class)?;
                self.readable(value).map(Some)
            }
            OperandSource::Param(number) => match self.param(*number)? {
                (0 | oid::TEXT | oid::VARCHAR | UNKNOWN, _, Some(bytes)) => {
                    let text = std::str::from_utf8(bytes).ok()?;
                    self.readable(Cow::Borrowed(text)).map(Some)
                }
                (_, _, None) => Some(None),
                _ => None,
            },
            OperandSource::Fixed(_) | OperandSource::Constant { .. } | OperandSource::Computed(_) => None,
        }
    }

    /// NULL is false (set_config_by_name, guc_funcs.c).
    fn boolean(&self, operand: &'a Operand) -> Option<bool> {
        match &operand.source {
            OperandSource::Param(number) => match self.param(*number)? {
                (0 | BOOL, true, Some([value])) => Some(*value != 0),
                (0 | BOOL, false, Some(bytes)) => truth(std::str::from_utf8(bytes).ok()?),
                (_, _, None) => Some(false),
                _ => None,
            },
            _ => self.text(operand)?.map_or(Some(false), |text| truth(&text)),
        }
    }

    /// Declared type, whether it is binary, and the bytes.
    fn param(&self, number: u16) -> Option<(u32, bool, Option<&'a [u8]>)> {
        let Params::Bound { types, formats, values } = self.params else { return None };
        let index = usize::from(number).checked_sub(1)?;
        let binary = match formats {
            [] => false,
            [all] => *all == 1,
            each => *each.get(index)? == 1,
        };
        Some((types.get(index).copied().unwrap_or(0), binary, *values.get(index)?))
    }

    /// What is said again to other servers must be what the client's own server reads.
    fn readable(&self, text: Cow<'a, str>) -> Option<Cow<'a, str>> {
        (self.encodings.is_plain() || text.is_ascii()).then_some(text)
    }
}

/// A boolean in the words that are usual.
fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "t" | "true" | "1" | "on" | "yes" | "y" => Some(true),
        "f" | "false" | "0" | "off" | "no" | "n" => Some(false),
        _ => None,
    }
}
