//! The text form of a history: one operation per line, for the files that a run leaves behind.
//!
//! ```text
//! # client call end key action
//! 3 100 250 user:1 put v1
//! 4 120 - user:1 put-if-absent v2 unknown
//! 3 300 310 user:1 get v1
//! 5 300 330 user:2 get -
//! 4 400 420 user:1 swap v1 v3 done
//! 3 500 510 user:1 delete
//! 0 900 - user:1 expire v3
//! 3 600 610 user:1 look absent
//! ```
//!
//! Fields are separated by one space. `-` is an unknown end or an absent value. In keys and values, a space, a control
//! character, `%` and a whole word `-` are written as `%` and two hexadecimal digits; an empty word is a single `%`.
//! Empty lines and lines that begin with `#` are skipped.

use std::fmt;
use std::str::{FromStr, Split};

use super::{Action, History, Operation, Outcome};

/// A text that is not a history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ParseError {
    /// The line number, from 1.
    pub line: usize,
    /// What is wrong with it.
    problem: String,
}

/// The text form, which [`History::from_str`] reads.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operations.iter().try_for_each(|operation| write_line(f, operation))
    }
}

impl FromStr for History {
    type Err = ParseError;

    /// # Errors
    ///
    /// The first line that is not an operation, or not one that a history may hold.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut history = Self::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let operation = read_line(line).map_err(|problem| ParseError { line: index + 1, problem })?;
            history.operations.push(operation);
        }
        Ok(history)
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, operation: &Operation) -> fmt::Result {
    let Operation { client, key, call, end, action } = operation;
    write!(f, "{client} {call} ")?;
    match end {
        Some(end) => write!(f, "{end}")?,
        None => f.write_str("-")?,
    }
    write!(f, " {} ", Word(key))?;
    match action {
        Action::Put { value } => writeln!(f, "put {}", Word(value)),
        Action::Get { result: Some(value) } => writeln!(f, "get {}", Word(value)),
        Action::Get { result: None } => writeln!(f, "get -"),
        Action::Delete => writeln!(f, "delete"),
        Action::Expire { value } => writeln!(f, "expire {}", Word(value)),
        Action::Look { is_there } => writeln!(f, "look {}", if *is_there { "there" } else { "absent" }),
        Action::PutIfAbsent { value, outcome } => writeln!(f, "put-if-absent {} {outcome}", Word(value)),
        Action::Swap { expected, value, outcome } => {
            writeln!(f, "swap {} {} {outcome}", Word(expected), Word(value))
        }
    }
}

fn read_line(line: &str) -> Result<Operation, String> {
    let mut fields = Fields(line.split(' '));
    let client = fields.number("client")?;
    let call = fields.number("call")?;
    let end = match fields.next("end")? {
        "-" => None,
        end => Some(number("end", end)?),
    };
    let key = fields.word("key")?;
    let action = match fields.next("action")? {
        "put" => Action::Put { value: fields.word("value")? },
        "get" => Action::Get {
            result: match fields.next("result")? {
                "-" => None,
                result => Some(unescape("result", result)?),
            },
        },
        "delete" => Action::Delete,
        "expire" => Action::Expire { value: fields.word("value")? },
        "look" => Action::Look {
            is_there: match fields.next("result")? {
                "there" => true,
                "absent" => false,
                other => return Err(format!("`{other}` is no result of a look: there or absent")),
            },
        },
        "put-if-absent" => Action::PutIfAbsent { value: fields.word("value")?, outcome: fields.outcome()? },
        "swap" => Action::Swap {
            expected: fields.word("expected value")?,
            value: fields.word("value")?,
            outcome: fields.outcome()?,
        },
        other => return Err(format!("`{other}` is no action: put, get, delete, put-if-absent, swap, expire or look")),
    };
    if let Some(extra) = fields.0.next() {
        return Err(format!("`{extra}` is one field too many"));
    }
    let operation = Operation { client, key, call, end, action };
    operation.check().map_err(str::to_owned)?;
    Ok(operation)
}

/// The fields of a line that have not been read yet.
struct Fields<'a>(Split<'a, char>);

impl<'a> Fields<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| format!("the line ends where its {what} should be"))
    }

    fn number<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        number(what, self.next(what)?)
    }

    fn word(&mut self, what: &str) -> Result<String, String> {
        unescape(what, self.next(what)?)
    }

    fn outcome(&mut self) -> Result<Outcome, String> {
        match self.next("outcome")? {
            "done" => Ok(Outcome::Done),
            "conflict" => Ok(Outcome::Conflict),
            "unknown" => Ok(Outcome::Unknown),
            other => Err(format!("`{other}` is no outcome: done, conflict or unknown")),
        }
    }
}

fn number<T: FromStr>(what: &str, field: &str) -> Result<T, String> {
    field.parse().map_err(|_| format!("`{field}` is no number, or too large for one, where the {what} should be"))
}

/// A key or a value as one field.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("%"),
            "-" => f.write_str("%2D"),
            word => word.chars().try_for_each(|c| match c {
                ' ' | '%' => write!(f, "%{:02X}", u32::from(c)),
                c if c.is_ascii_control() => write!(f, "%{:02X}", u32::from(c)),
                c => write!(f, "{c}"),
            }),
        }
    }
}

fn unescape(what: &str, field: &str) -> Result<String, String> {
    if field == "%" {
        return Ok(String::new());
    }
    if field.is_empty() || field == "-" {
        return Err(format!("`{field}` is no {what}; an empty one is written `%`, and a hyphen `%2D`"));
    }
    let mut parts = field.split('%');
    let mut word = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let escaped = part
            .split_at_checked(2)
            .filter(|(digits, _)| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|(digits, rest)| Some((u8::from_str_radix(digits, 16).ok()?, rest)))
            .filter(|(byte, _)| byte.is_ascii());
        let Some((byte, rest)) = escaped else {
            return Err(format!("in the {what} `{field}` a `%` is not followed by two digits from 00 to 7F"));
        };
        word.push(char::from(byte));
        word.push_str(rest);
    }
    Ok(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "3 100 250 user:1 put v1\n\
        4 120 - user:1 put-if-absent v2 unknown\n\
        3 300 310 user:1 get v1\n\
        5 300 330 % get -\n\
        4 400 420 a%20b swap %2D 100%25 done\n\
        4 400 420 %0Aü get %0D\n\
        3 500 - user:1 delete\n";

    #[test]
    fn what_is_written_is_read_back() {
        let history: History = TEXT.parse().unwrap();
        assert_eq!(history.operations().len(), 7);
        assert_eq!(history.to_string(), TEXT);
        assert_eq!(history.last_time(), 500);
        let keys: Vec<_> = history.operations().iter().map(|operation| operation.key.as_str()).collect();
        assert_eq!(keys, ["user:1", "user:1", "user:1", "", "a b", "\nü", "user:1"]);
        let swap = Action::Swap { expected: "-".into(), value: "100%".into(), outcome: Outcome::Done };
        assert_eq!(history.operations()[4].action, swap);
    }

    #[test]
    fn remarks_and_empty_lines_are_skipped() {
        let history: History = "# seed 7\n\n1 2 3 k delete\n".parse().unwrap();
        assert_eq!(history.operations().len(), 1);
    }

    #[test]
    fn a_line_that_is_no_operation_is_named() {
        let cases = [
            ("", "2", "line 2: the line ends where its call should be"),
            ("x 1 2 k delete\n", "", "line 1: `x` is no number, or too large for one, where the client should be"),
            ("1 2 3 k delete\n", "1 2 3 k jump", "line 3: `jump` is no action"),
            ("", "1 2 3 k put", "line 2: the line ends where its value should be"),
            ("", "1 2 3 k put -", "line 2: `-` is no value"),
            ("", "1 2 3 k  put v", "line 2: `` is no action"),
            ("", "1 2 3 k put a%2", "line 2: in the value `a%2` a `%` is not followed"),
            ("", "1 2 3 k put a%FF", "line 2: in the value `a%FF` a `%` is not followed"),
            ("", "1 2 3 k put %+1", "line 2: in the value `%+1` a `%` is not followed"),
            ("", "1 2 3 k put %ü", "line 2: in the value `%ü` a `%` is not followed"),
            ("", "1 2 3 k put v w", "line 2: `w` is one field too many"),
            ("", "1 2 3 k put-if-absent v maybe", "line 2: `maybe` is no outcome"),
            ("", "1 2 1 k put v", "line 2: it ends before it is called"),
            ("", "1 2 - k get v", "line 2: a read of unknown outcome is left out"),
            ("", "1 2 - k swap v w done", "line 2: the outcome of a conditional write is unknown exactly where"),
        ];
        for (before, line, expected) in cases {
            let error = format!("{before}\n{line}").parse::<History>().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{line:?} gave {error:?}");
        }
    }
}
