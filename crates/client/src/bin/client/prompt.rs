//! Completion and hints at the prompt, from the list of commands.

use std::borrow::Cow;

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter};
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::verb::{COMMANDS, Spec};

/// The line editor's callbacks while a user types.
#[derive(Debug)]
pub(crate) struct CommandHelper;

/// The rest of a command. The rest of its verb can be accepted with the right arrow, its arguments cannot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommandHint {
    text: String,
    verb_bytes: usize,
}

impl Hint for CommandHint {
    fn display(&self) -> &str {
        &self.text
    }

    fn completion(&self) -> Option<&str> {
        self.text.get(..self.verb_bytes).filter(|verb| !verb.is_empty())
    }
}

impl Completer for CommandHelper {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        Ok((0, completions(line.get(..pos).unwrap_or_default())))
    }
}

impl Hinter for CommandHelper {
    type Hint = CommandHint;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<CommandHint> {
        if pos == line.len() { hint(line) } else { None }
    }
}

impl Highlighter for CommandHelper {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        // Faint, so that it is not mistaken for typed text.
        Cow::Owned(format!("\x1b[2m{hint}\x1b[m"))
    }
}

impl Validator for CommandHelper {}

impl Helper for CommandHelper {}

/// The commands that a line may become, and after a command the words that may follow it.
fn completions(line: &str) -> Vec<Pair> {
    if let Some((verb, start)) = line.split_once(' ') {
        let spec = COMMANDS.iter().find(|spec| spec.name.eq_ignore_ascii_case(verb));
        let words = spec.into_iter().flat_map(Spec::words).filter(|word| starts(word, start));
        return words.map(|word| Pair { display: word.to_owned(), replacement: format!("{verb} {word}") }).collect();
    }
    let candidates = COMMANDS.iter().filter(|spec| starts(spec.name, line));
    candidates.map(|spec| Pair { display: spec.name.to_owned(), replacement: format!("{} ", spec.name) }).collect()
}

/// What is missing from a partly typed command.
fn hint(line: &str) -> Option<CommandHint> {
    if line.is_empty() {
        return None;
    }
    if let Some((word, rest)) = line.split_once(' ') {
        let spec = COMMANDS.iter().find(|spec| spec.name.eq_ignore_ascii_case(word))?;
        let text = spec.arguments.to_owned();
        return (rest.is_empty() && !text.is_empty()).then_some(CommandHint { text, verb_bytes: 0 });
    }
    let spec = COMMANDS.iter().find(|spec| starts(spec.name, line))?;
    let mut verb = spec.name.get(line.len()..).unwrap_or_default().to_owned();
    if line.ends_with(|last: char| last.is_ascii_lowercase()) {
        verb.make_ascii_lowercase();
    }
    let text = format!("{verb} {}", spec.arguments).trim_end().to_owned();
    (!text.is_empty()).then_some(CommandHint { text, verb_bytes: verb.len() })
}

fn starts(word: &str, typed: &str) -> bool {
    word.get(..typed.len()).is_some_and(|start| start.eq_ignore_ascii_case(typed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_is_completed_in_any_case() {
        let names = |line| completions(line).into_iter().map(|pair| pair.replacement).collect::<Vec<_>>();
        assert_eq!(names("p"), ["PUT ", "PUTNX ", "PUTEX ", "PERSIST ", "PREFIX ", "PING "]);
        assert_eq!(names("ack "), ["ack async", "ack quorum", "ack all"]);
        assert_eq!(names("READ LI"), ["READ linear"]);
        assert_eq!(names("ACCEPT_LOSS "), ["ACCEPT_LOSS all"]);
        assert_eq!(names("GET_"), ["GET_NODES_FOR_KEY "]);
        assert_eq!(names("").len(), COMMANDS.len());
        assert!(names("PUT k").is_empty());
        assert!(names("ключ").is_empty());
    }

    #[test]
    fn a_hint_shows_what_is_missing() {
        let shown = |line| hint(line).map(|hint| hint.text);
        assert_eq!(shown("PU").as_deref(), Some("T key value"));
        assert_eq!(shown("pu").as_deref(), Some("t key value"));
        assert_eq!(shown("PUT ").as_deref(), Some("key value"));
        assert_eq!(shown("CA").as_deref(), Some("S key version value"));
        assert_eq!(shown("ack ").as_deref(), Some("[async|quorum|all]"));
        assert_eq!(shown("list_nodes"), None);
        assert_eq!(shown("PUT k"), None);
        assert_eq!(shown("FOO"), None);
        assert_eq!(shown(""), None);
    }

    #[test]
    fn only_the_verb_of_a_hint_is_taken_over() {
        assert_eq!(hint("GE").unwrap().completion(), Some("T"));
        assert_eq!(hint("GET ").unwrap().completion(), None);
    }
}
