//! DateStyle is two settings in one: how dates are written, and in which order their fields are read. `SET datestyle TO dmy`
//! changes one and leaves the other (check_datestyle in variable.c), so what a session has set is more than what its
//! last statement says.

/// What `statement` makes of a session that `before` has set: one statement that says both. `None`: `statement` says it all, or
/// is of a form that is not known.
pub(super) fn over(before: &str, statement: &str) -> Option<Box<str>> {
    let new = Parts::of(statement)?;
    if new.style.is_some() && new.order.is_some() {
        return None;
    }
    let old = Parts::of(before)?;
    let style = new.style.or(old.style);
    let order = new.order.or(old.order);
    let words: Vec<&str> = style.into_iter().chain(order).collect();
    let local = if new.local { "LOCAL " } else { "" };
    Some(format!("SET {local}datestyle TO '{}'", words.join(", ")).into())
}

#[derive(Debug, PartialEq, Eq)]
struct Parts {
    local: bool,
    style: Option<&'static str>,
    order: Option<&'static str>,
}

impl Parts {
    fn of(statement: &str) -> Option<Parts> {
        let lower = statement.to_ascii_lowercase();
        let words = lower.split(|c: char| c.is_ascii_whitespace() || ",'\"=;".contains(c));
        let mut words = words.filter(|w| !w.is_empty()).peekable();
        if words.next() != Some("set") {
            return None;
        }
        let scope = words.next_if(|w| matches!(*w, "local" | "session"));
        if words.next() != Some("datestyle") {
            return None;
        }
        let _ = words.next_if_eq(&"to");
        let mut parts = Parts { local: scope == Some("local"), style: None, order: None };
        let mut implied = None;
        for word in words {
            match word {
                "iso" => parts.style = Some("ISO"),
                "sql" => parts.style = Some("SQL"),
                "german" => {
                    parts.style = Some("German");
                    implied = Some("DMY");
                }
                "ymd" => parts.order = Some("YMD"),
                "dmy" => parts.order = Some("DMY"),
                "mdy" | "us" => parts.order = Some("MDY"),
                word if word.starts_with("postgres") => parts.style = Some("Postgres"),
                word if word.starts_with("euro") => parts.order = Some("DMY"),
                word if word.starts_with("noneuro") => parts.order = Some("MDY"),
                _ => return None,
            }
        }
        parts.order = parts.order.or(implied);
        Some(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays() {
        let over = |before, statement| over(before, statement).map(String::from);
        let start = "SET datestyle TO 'Postgres, MDY'";
        assert_eq!(over(start, "SET datestyle TO dmy").unwrap(), "SET datestyle TO 'Postgres, DMY'");
        assert_eq!(over(start, "set DateStyle=ISO").unwrap(), "SET datestyle TO 'ISO, MDY'");
        assert_eq!(
            over(start, "SET LOCAL datestyle = \"European\"").unwrap(),
            "SET LOCAL datestyle TO 'Postgres, DMY'"
        );
        assert_eq!(over("SET datestyle TO ymd", "SET datestyle TO us").unwrap(), "SET datestyle TO 'MDY'");
        assert_eq!(over(start, "SET datestyle TO 'SQL, YMD'"), None);
        assert_eq!(over(start, "SET datestyle TO German"), None, "that is DMY as well");
        assert_eq!(over(start, "SET datestyle TO /* a comment */ dmy"), None);
    }
}
