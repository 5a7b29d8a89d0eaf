//! Parses the syntax of a command's arguments for `COMMAND DOCS`.
//!
//! A syntax is written as in Redis's documentation: `key value [NX|XX] [EX seconds|KEEPTTL]`. Words in capitals are
//! literal tokens, others are placeholders. Brackets enclose optional parts and `|` separates alternatives. `[key ...]`
//! after `key`, or `[key value ...]` after `key value`, means repetition.

/// One argument of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// The token before it, or the token that is all of it.
    pub token: Option<&'static str>,
    /// Its kind.
    pub kind: Kind,
    /// Whether it may be omitted.
    pub is_optional: bool,
    /// Whether it may be repeated.
    pub is_multiple: bool,
}

/// The kind of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A type of Redis: `key`, `string`, `integer`, `pattern`, `unix-time`.
    Plain(&'static str),
    /// The token alone.
    Token,
    /// One of these.
    OneOf(Vec<Argument>),
    /// All of these.
    Block(Vec<Argument>),
}

impl Argument {
    fn new(name: impl Into<String>, token: Option<&'static str>, kind: Kind) -> Self {
        Self { name: name.into(), token, kind, is_optional: false, is_multiple: false }
    }
}

/// The arguments that a syntax describes.
#[must_use]
pub fn arguments(syntax: &'static str) -> Vec<Argument> {
    let mut rest = syntax;
    let (mut choices, _) = choices(&mut rest);
    if choices.len() == 1 { choices.remove(0) } else { vec![one_of(choices)] }
}

/// Sequences separated by `|`, up to a closing bracket, and whether the last ends with `...`.
fn choices(rest: &mut &'static str) -> (Vec<Vec<Argument>>, bool) {
    let mut choices = vec![Vec::new()];
    let mut goes_on = false;
    loop {
        *rest = rest.trim_start_matches(' ');
        let Some(sequence) = choices.last_mut() else { return (choices, goes_on) };
        let Some(first) = rest.chars().next() else { return (choices, goes_on) };
        match first {
            '|' => {
                *rest = rest.split_at(1).1;
                choices.push(Vec::new());
            }
            ']' => {
                *rest = rest.split_at(1).1;
                return (choices, goes_on);
            }
            '[' => {
                *rest = rest.split_at(1).1;
                optional(rest, sequence);
            }
            _ => match word(rest) {
                "..." => goes_on = true,
                token if is_token(token) => sequence.push(behind_token(token, rest)),
                name => sequence.push(Argument::new(name, None, Kind::Plain(kind_of(name)))),
            },
        }
    }
}

/// The content of brackets, after the opening one.
fn optional(rest: &mut &'static str, sequence: &mut Vec<Argument>) {
    let (mut choices, goes_on) = choices(rest);
    if choices.len() > 1 {
        sequence.push(Argument { is_optional: true, ..one_of(choices) });
        return;
    }
    let mut inside = choices.pop().unwrap_or_default();
    // A repetition of what precedes it.
    if goes_on && sequence.ends_with(&inside) {
        sequence.truncate(sequence.len() - inside.len());
        sequence.push(Argument { is_multiple: true, ..single(inside) });
        return;
    }
    // An optional part with a single token is that token's argument made optional.
    if inside.len() == 1 && inside.first().is_some_and(|argument| argument.token.is_some()) {
        let argument = inside.remove(0);
        sequence.push(Argument { is_optional: true, is_multiple: argument.is_multiple || goes_on, ..argument });
        return;
    }
    sequence.push(Argument { is_optional: true, is_multiple: goes_on, ..single(inside) });
}

/// The argument of a token: the token alone, or with the placeholders up to the next bracket or bar.
fn behind_token(token: &'static str, rest: &mut &'static str) -> Argument {
    let mut inside = Vec::new();
    loop {
        *rest = rest.trim_start_matches(' ');
        let ahead = rest.split([' ', '[', ']', '|']).next().unwrap_or_default();
        if ahead.is_empty() || ahead == "..." || is_token(ahead) {
            break;
        }
        let name = word(rest);
        inside.push(Argument::new(name, None, Kind::Plain(kind_of(name))));
        // As in `ID client-id [client-id ...]`.
        if let Some(behind) =
            rest.strip_prefix(" [").and_then(|behind| behind.strip_prefix(name)?.strip_prefix(" ...]"))
        {
            *rest = behind;
            inside.iter_mut().for_each(|argument| argument.is_multiple = true);
        }
    }
    match inside.len() {
        0 => Argument::new(token.to_ascii_lowercase(), Some(token), Kind::Token),
        _ => Argument { token: Some(token), ..single(inside) },
    }
}

/// A single argument as it is, several as a block.
fn single(mut arguments: Vec<Argument>) -> Argument {
    if arguments.len() == 1 {
        return arguments.remove(0);
    }
    let names: Vec<&str> = arguments.iter().map(|argument| argument.name.as_str()).collect();
    Argument::new(names.join("_"), None, Kind::Block(arguments))
}

fn one_of(choices: Vec<Vec<Argument>>) -> Argument {
    let choices: Vec<Argument> = choices.into_iter().map(single).collect();
    let names: Vec<&str> = choices.iter().map(|choice| choice.name.as_str()).collect();
    Argument::new(names.join("_or_"), None, Kind::OneOf(choices))
}

/// Takes the next word.
fn word(rest: &mut &'static str) -> &'static str {
    let end = rest.find([' ', '[', ']', '|']).unwrap_or(rest.len());
    let (word, behind) = rest.split_at(end);
    *rest = behind;
    word
}

fn is_token(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_uppercase())
}

fn kind_of(name: &str) -> &'static str {
    match name {
        "key" | "newkey" => "key",
        "pattern" => "pattern",
        "unix-time-seconds" | "unix-time-milliseconds" => "unix-time",
        "seconds" | "milliseconds" | "count" | "cursor" | "start" | "end" | "offset" | "index" | "protover"
        | "numreplicas" | "timeout" | "increment" | "decrement" | "client-id" | "seq" => "integer",
        _ => "string",
    }
}

/// The least number of words that these arguments take.
#[cfg(test)]
pub(super) fn least(arguments: &[Argument]) -> usize {
    let of = |argument: &Argument| match &argument.kind {
        _ if argument.is_optional => 0,
        Kind::Token => 1,
        Kind::Plain(_) => 1 + usize::from(argument.token.is_some()),
        Kind::Block(inside) => least(inside) + usize::from(argument.token.is_some()),
        Kind::OneOf(choices) => choices.iter().map(|choice| least(std::slice::from_ref(choice))).min().unwrap_or(0),
    };
    arguments.iter().map(of).sum()
}

/// The arguments as redis-cli shows them.
#[cfg(test)]
pub(super) fn shown(arguments: &[Argument]) -> String {
    arguments.iter().map(shown_one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
fn shown_one(argument: &Argument) -> String {
    let inside = match &argument.kind {
        Kind::Plain(_) => argument.name.clone(),
        Kind::Token => String::new(),
        Kind::Block(inside) => shown(inside),
        Kind::OneOf(choices) => choices.iter().map(shown_one).collect::<Vec<_>>().join("|"),
    };
    let mut text = match (argument.is_multiple, argument.is_optional) {
        (true, false) => format!("{inside} [{inside} ...]"),
        (true, true) if argument.token.is_none() => format!("{inside} ..."),
        (true, true) => format!("{inside} [{inside} ...]"),
        _ => inside,
    };
    if let Some(token) = argument.token {
        text = format!("{token} {text}").trim_end().to_owned();
    }
    if argument.is_optional { format!("[{text}]") } else { text }
}
