//! Commands that only arrays have, besides `HELLO` and `AUTH`: Redis's connection and server commands, and Redis's
//! wording of what is wrong with an array.

use super::auth::Auth;
use super::keyspace::pattern;
use super::redis::{not_an_integer, quoted, syntax, unknown_subcommand, wrong_number};
use super::{KeyWords, NodeRequest, RawWords, Rest};
use crate::commands::Command;
use crate::decimal::integer;
use crate::error::ErrorReply;
use crate::frame::Words;
use crate::limits;

/// A command without keys. Its words are borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerCommand<'a> {
    /// `PING [message]`.
    Ping(Option<&'a [u8]>),
    /// `ECHO message`.
    Echo(&'a [u8]),
    /// `HELLO [2|3 [AUTH user password] [SETNAME name]]`.
    Hello(Hello<'a>),
    /// `AUTH [user] password`.
    Auth(Auth<'a>),
    /// `SELECT 0`.
    Select,
    /// `QUIT`.
    Quit,
    /// `RESET`.
    Reset,
    /// `CLIENT ...`.
    Client(ClientCommand<'a>),
    /// `COMMAND ...`.
    Command(CommandQuery<'a>),
    /// `CONFIG GET pattern ...`.
    ConfigGet(RawWords<'a>),
    /// `INFO [section ...]`.
    Info(RawWords<'a>),
    /// `DBSIZE`.
    DbSize,
    /// `TIME`.
    Time,
    /// `ROLE`.
    Role,
    /// `HELP` as the subcommand of this command.
    Help(&'static Command),
    /// `WAIT replicas milliseconds`.
    Wait {
        /// How many replicas must have all writes of the connection.
        replicas: u64,
        /// How long to wait, in milliseconds; 0 for as long as a request may take.
        millis: u64,
    },
}

/// The words of `HELLO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hello<'a> {
    /// RESP3 (true) or RESP2; `None` leaves it unchanged.
    pub is_three: Option<bool>,
    /// User and password.
    pub auth: Option<(&'a [u8], &'a [u8])>,
    /// The name of the connection.
    pub name: Option<&'a [u8]>,
}

/// What `CLIENT` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCommand<'a> {
    /// The number of this connection.
    Id,
    /// Information about this connection.
    Info,
    /// Information about connections: those with these numbers, or all.
    List(Option<RawWords<'a>>),
    /// `LIST TYPE` of another type than `normal`; there are no such connections.
    ListNone,
    /// The name of this connection.
    GetName,
    /// Name this connection; an empty name removes it.
    SetName(&'a [u8]),
    /// The library that the client uses.
    SetLibraryName(&'a [u8]),
    /// The version of that library.
    SetLibraryVersion(&'a [u8]),
    /// Whether this connection is exempt from being dropped for lack of memory; none ever is dropped.
    NoEvict(bool),
    /// Whether this connection's reads should not count as uses of keys. Remembered and shown, but without effect.
    NoTouch(bool),
}

/// What `COMMAND` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandQuery<'a> {
    /// How many there are.
    Count,
    /// These commands, or all, for programs.
    Info(RawWords<'a>),
    /// These commands, or all, for people.
    Docs(RawWords<'a>),
    /// Their names.
    List(NamesOrPattern<'a>),
}

/// Which names `COMMAND LIST` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamesOrPattern<'a> {
    /// All.
    All,
    /// Those that match a pattern.
    Pattern(&'a [u8]),
    /// Those in a category, such as `read`.
    Category(&'a [u8]),
    /// Those of a module; there are none.
    Module,
}

/// Parses a command without keys, its verb in upper case; [`ErrorReply::UnknownCommand`] if it is none of these.
pub(super) fn parse<'a>(verb: &[u8], rest: Rest<'a>) -> Result<NodeRequest<'a>, ErrorReply> {
    if verb == b"HELLO" {
        return hello(KeyWords(rest)).map(|hello| NodeRequest::Server(ServerCommand::Hello(hello)));
    }
    if verb == b"AUTH" {
        return rest.auth().map(|auth| NodeRequest::Server(ServerCommand::Auth(auth)));
    }
    let Rest::Words(words) = rest else { return Err(ErrorReply::UnknownCommand) };
    let command = match verb {
        b"PING" => ServerCommand::Ping(at_most_one(verb, words)?),
        b"ECHO" => {
            let [message] = exactly(verb, words)?;
            ServerCommand::Echo(message)
        }
        b"SELECT" => {
            let [index] = exactly(verb, words)?;
            match integer(index).ok_or_else(not_an_integer)? {
                0 => ServerCommand::Select,
                index if i32::try_from(index).is_err() => {
                    let (least, most) = (i32::MIN, i32::MAX);
                    let error = format!("ERR value is out of range, value must between {least} and {most}");
                    return Err(ErrorReply::redis(error));
                }
                _ => return Err(ErrorReply::redis("ERR DB index is out of range")),
            }
        }
        b"QUIT" => ServerCommand::Quit,
        b"RESET" => exactly(verb, words).map(|[]| ServerCommand::Reset)?,
        b"CLIENT" => ServerCommand::Client(client(words)?),
        b"COMMAND" => ServerCommand::Command(command_query(words)?),
        b"CONFIG" => config(words)?,
        b"INFO" => ServerCommand::Info(RawWords(words)),
        b"DBSIZE" => exactly(verb, words).map(|[]| ServerCommand::DbSize)?,
        b"TIME" => exactly(verb, words).map(|[]| ServerCommand::Time)?,
        b"ROLE" => exactly(verb, words).map(|[]| ServerCommand::Role)?,
        b"WAIT" => wait(exactly(verb, words)?)?,
        _ => return Err(ErrorReply::UnknownCommand),
    };
    Ok(NodeRequest::Server(command))
}

/// Parses `HELP` as the subcommand of a command, whose name is in upper case.
pub(super) fn help<'a>(verb: &[u8], rest: Rest<'a>) -> Result<NodeRequest<'a>, ErrorReply> {
    let (Rest::Words(words), Some(container)) = (rest, Command::named(verb)) else {
        return Err(ErrorReply::UnknownCommand);
    };
    let [_] = exactly(format!("{}|help", container.name).as_bytes(), words)?;
    Ok(NodeRequest::Server(ServerCommand::Help(container)))
}

fn wrong_words(verb: &[u8]) -> ErrorReply {
    wrong_number(&String::from_utf8_lossy(verb))
}

fn exactly<'a, const N: usize>(verb: &[u8], words: Words<'a>) -> Result<[&'a [u8]; N], ErrorReply> {
    words.exactly().ok_or_else(|| wrong_words(verb))
}

fn at_most_one<'a>(verb: &[u8], mut words: Words<'a>) -> Result<Option<&'a [u8]>, ErrorReply> {
    let first = words.next();
    if words.is_empty() { Ok(first) } else { Err(wrong_words(verb)) }
}

/// From an array, or from a line: some clients send it as a line before anything else.
fn hello<'a>(mut words: KeyWords<'a>) -> Result<Hello<'a>, ErrorReply> {
    let mut hello = Hello::default();
    let Some(version) = words.next() else { return Ok(hello) };
    hello.is_three = match integer(version) {
        None => return Err(ErrorReply::redis("ERR Protocol version is not an integer or out of range")),
        Some(2) => Some(false),
        Some(3) => Some(true),
        Some(_) => {
            return Err(ErrorReply::redis("NOPROTO unsupported protocol version"));
        }
    };
    while let Some(option) = words.next() {
        let incomplete = || {
            let option = quoted(option, option.len());
            ErrorReply::redis(format!("ERR Syntax error in HELLO option '{option}'"))
        };
        if option.eq_ignore_ascii_case(b"AUTH") {
            let user = words.next().ok_or_else(incomplete)?;
            hello.auth = Some((user, words.next().ok_or_else(incomplete)?));
        } else if option.eq_ignore_ascii_case(b"SETNAME") {
            hello.name = Some(connection_name(words.next().ok_or_else(incomplete)?)?);
        } else {
            return Err(incomplete());
        }
    }
    Ok(hello)
}

/// The name of a connection: printable, without blanks, and within its limit.
fn connection_name(name: &[u8]) -> Result<&[u8], ErrorReply> {
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(ErrorReply::redis("ERR Client names cannot contain spaces, newlines or special characters."));
    }
    short_name("client name", name)
}

fn short_name<'a>(what: &'static str, name: &'a [u8]) -> Result<&'a [u8], ErrorReply> {
    let (len, limit) = (name.len(), limits::CONNECTION_NAME_BYTES);
    if len > limit { Err(ErrorReply::TooLong { what, len, limit }) } else { Ok(name) }
}

fn client<'a>(mut words: Words<'a>) -> Result<ClientCommand<'a>, ErrorReply> {
    let Some(sub) = words.next() else { return Err(wrong_words(b"client")) };
    let lower = sub.to_ascii_lowercase();
    let full = || [b"client|", lower.as_slice()].concat();
    match lower.as_slice() {
        b"id" => exactly(&full(), words).map(|[]| ClientCommand::Id),
        b"info" => exactly(&full(), words).map(|[]| ClientCommand::Info),
        b"getname" => exactly(&full(), words).map(|[]| ClientCommand::GetName),
        b"setname" => {
            let [name] = exactly(&full(), words)?;
            connection_name(name).map(ClientCommand::SetName)
        }
        b"setinfo" => {
            let [attribute, value] = exactly(&full(), words)?;
            set_info(attribute, value)
        }
        b"no-evict" => exactly(&full(), words).and_then(|[word]| on_or_off(word)).map(ClientCommand::NoEvict),
        b"no-touch" => exactly(&full(), words).and_then(|[word]| on_or_off(word)).map(ClientCommand::NoTouch),
        b"list" => client_list(words),
        _ => Err(unknown_subcommand(sub, "CLIENT")),
    }
}

fn client_list(mut words: Words<'_>) -> Result<ClientCommand<'_>, ErrorReply> {
    let Some(filter) = words.next() else { return Ok(ClientCommand::List(None)) };
    if filter.eq_ignore_ascii_case(b"ID") && !words.is_empty() {
        if !words.into_iter().all(|id| integer(id).is_some()) {
            return Err(ErrorReply::redis("ERR Invalid client ID"));
        }
        return Ok(ClientCommand::List(Some(RawWords(words))));
    }
    let [kind] = words.exactly().ok_or_else(syntax)?;
    if !filter.eq_ignore_ascii_case(b"TYPE") {
        return Err(syntax());
    }
    match kind.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(ClientCommand::List(None)),
        b"master" | b"replica" | b"slave" | b"pubsub" => Ok(ClientCommand::ListNone),
        _ => Err(ErrorReply::redis(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(kind)))),
    }
}

fn set_info<'a>(attribute: &[u8], value: &'a [u8]) -> Result<ClientCommand<'a>, ErrorReply> {
    let attribute = String::from_utf8_lossy(attribute).into_owned();
    let lower = attribute.to_ascii_lowercase();
    if !matches!(lower.as_str(), "lib-name" | "lib-ver") {
        return Err(ErrorReply::redis(format!("ERR Unrecognized option '{attribute}'")));
    }
    if !value.iter().all(u8::is_ascii_graphic) {
        return Err(ErrorReply::redis(format!("ERR {lower} cannot contain spaces, newlines or special characters.")));
    }
    let value = short_name("client library", value)?;
    Ok(if lower == "lib-name" { ClientCommand::SetLibraryName(value) } else { ClientCommand::SetLibraryVersion(value) })
}

fn on_or_off(word: &[u8]) -> Result<bool, ErrorReply> {
    match word.to_ascii_lowercase().as_slice() {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err(syntax()),
    }
}

fn command_query<'a>(mut words: Words<'a>) -> Result<CommandQuery<'a>, ErrorReply> {
    let whole = words;
    let Some(sub) = words.next() else { return Ok(CommandQuery::Info(RawWords(whole))) };
    match sub.to_ascii_lowercase().as_slice() {
        b"count" => exactly(b"command|count", words).map(|[]| CommandQuery::Count),
        b"info" => few(words, "names").map(CommandQuery::Info),
        b"docs" => few(words, "names").map(CommandQuery::Docs),
        b"list" if words.is_empty() => Ok(CommandQuery::List(NamesOrPattern::All)),
        b"list" => {
            let [filter, kind, what] = words.exactly().ok_or_else(syntax)?;
            if !filter.eq_ignore_ascii_case(b"FILTERBY") {
                return Err(syntax());
            }
            match kind.to_ascii_lowercase().as_slice() {
                b"pattern" => Ok(CommandQuery::List(NamesOrPattern::Pattern(pattern(what)?))),
                b"aclcat" => Ok(CommandQuery::List(NamesOrPattern::Category(what))),
                b"module" => Ok(CommandQuery::List(NamesOrPattern::Module)),
                _ => Err(syntax()),
            }
        }
        _ => Err(unknown_subcommand(sub, "COMMAND")),
    }
}

fn config<'a>(mut words: Words<'a>) -> Result<ServerCommand<'a>, ErrorReply> {
    let Some(sub) = words.next() else { return Err(wrong_words(b"config")) };
    if !sub.eq_ignore_ascii_case(b"GET") {
        return Err(unknown_subcommand(sub, "CONFIG"));
    }
    if words.is_empty() {
        return Err(wrong_words(b"config|get"));
    }
    let patterns = few(words, "patterns")?;
    for word in words {
        pattern(word)?;
    }
    Ok(ServerCommand::ConfigGet(patterns))
}

/// Words of which each is answered on its own: no more than a node answers at once.
fn few<'a>(words: Words<'a>, what: &str) -> Result<RawWords<'a>, ErrorReply> {
    if words.len() > limits::ASKED_NAMES {
        return Err(ErrorReply::redis(format!("ERR more than {} {what}", limits::ASKED_NAMES)));
    }
    Ok(RawWords(words))
}

fn wait<'a>([replicas, millis]: [&[u8]; 2]) -> Result<ServerCommand<'a>, ErrorReply> {
    let replicas = integer(replicas).ok_or_else(not_an_integer)?;
    let millis = integer(millis).ok_or_else(|| ErrorReply::redis("ERR timeout is not an integer or out of range"))?;
    let millis = u64::try_from(millis).map_err(|_| ErrorReply::redis("ERR timeout is negative"))?;
    Ok(ServerCommand::Wait { replicas: u64::try_from(replicas).unwrap_or(0), millis })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, FrameDecoder, encode_array};

    fn array<T>(words: &[&str], look: impl FnOnce(Result<NodeRequest<'_>, ErrorReply>) -> T) -> T {
        let mut bytes = Vec::new();
        encode_array(words, &mut bytes);
        let mut decoder = FrameDecoder::new();
        look(NodeRequest::parse(decoder.decode(&bytes).unwrap().unwrap().0))
    }

    #[test]
    fn as_many_options_of_hello_as_an_array_has_room_for_are_read() {
        // If the time grew with the square of their number, this would take minutes.
        let words = ["HELLO", "3"].into_iter().chain(std::iter::repeat_n("SETNAME", 400_000)).collect::<Vec<_>>();
        array(&words, |read| {
            let hello = Hello { is_three: Some(true), auth: None, name: Some(b"SETNAME") };
            assert_eq!(read, Ok(NodeRequest::Server(ServerCommand::Hello(hello))));
        });
        let incomplete =
            [(&["AUTH"][..], "AUTH"), (&["auth", "me"], "auth"), (&["SETNAME"], "SETNAME"), (&["X\0Y"], "X")];
        for (words, option) in incomplete {
            array(&[&["HELLO", "3", "SETNAME", "a"], words].concat(), |read| {
                let error = ErrorReply::redis(format!("ERR Syntax error in HELLO option '{option}'"));
                assert_eq!(read, Err(error));
            });
        }
    }

    #[test]
    fn hello_is_the_same_in_both_encodings_and_the_others_are_arrays_only() {
        let hello = Hello { is_three: Some(true), auth: Some((b"me", b"secret")), name: Some(b"one") };
        let expected = Ok(NodeRequest::Server(ServerCommand::Hello(hello)));
        let words = ["hello", "3", "AUTH", "me", "secret", "setname", "one"];
        array(&words, |read| assert_eq!(read, expected));
        assert_eq!(NodeRequest::parse(Frame::Line(words.join(" ").as_bytes())), expected);
        for line in ["CLIENT ID", "SELECT 0", "WAIT 1 1", "DBSIZE", "COMMAND"] {
            assert_eq!(NodeRequest::parse(Frame::Line(line.as_bytes())), Err(ErrorReply::UnknownCommand), "{line}");
        }
        array(&["PING"], |read| assert_eq!(read, Ok(NodeRequest::Server(ServerCommand::Ping(None)))));
        assert_eq!(NodeRequest::parse(Frame::Line(b"PING")), Ok(NodeRequest::Ping));
    }

    #[test]
    fn an_array_with_the_wrong_number_of_words_has_the_error_of_redis() {
        for (words, name) in [
            (&["put", "k"][..], "put"),
            (&["GETV"], "getv"),
            (&["CAS", "k", "1"], "cas"),
            (&["mput", "k"], "mput"),
            (&["client", "id", "x"], "client|id"),
            (&["config", "get"], "config|get"),
        ] {
            let error = ErrorReply::redis(format!("ERR wrong number of arguments for '{name}' command"));
            array(words, |read| assert_eq!(read, Err(error)));
        }
        // The right number of words, one of them malformed.
        array(&["CAS", "k", "one", "v"], |read| assert_eq!(read, Err(ErrorReply::InvalidFormat("CAS"))));
    }

    #[test]
    fn help_lists_the_subcommands_of_the_commands_that_have_any() {
        for name in ["client", "COMMAND", "config", "memory", "object"] {
            let container = Command::named(name.as_bytes()).unwrap();
            assert!(container.subcommands().next().is_some(), "{name}");
            array(&[name, "Help"], |read| assert_eq!(read, Ok(NodeRequest::Server(ServerCommand::Help(container)))));
        }
        let wrong = ErrorReply::redis("ERR wrong number of arguments for 'client|help' command");
        array(&["client", "help", "id"], |read| assert_eq!(read, Err(wrong)));
        assert_eq!(NodeRequest::parse(Frame::Line(b"CLIENT HELP")), Err(ErrorReply::UnknownCommand));
    }

    #[test]
    fn a_question_about_names_has_no_more_than_the_limit() {
        let names = vec!["get"; limits::ASKED_NAMES + 1];
        for (asked, what) in
            [(["COMMAND", "INFO"], "names"), (["command", "docs"], "names"), (["CONFIG", "GET"], "patterns")]
        {
            let words = [&asked[..], &names].concat();
            array(&words, |read| assert_eq!(read, Err(ErrorReply::redis(format!("ERR more than 1000 {what}")))));
            array(words.get(..words.len() - 1).unwrap(), |read| assert!(read.is_ok(), "{asked:?}"));
        }
    }

    #[test]
    fn what_is_waited_for_is_read_within_bounds() {
        let wait = |replicas, millis| Ok(NodeRequest::Server(ServerCommand::Wait { replicas, millis }));
        array(&["WAIT", "2", "100"], |read| assert_eq!(read, wait(2, 100)));
        array(&["WAIT", "-3", "0"], |read| assert_eq!(read, wait(0, 0)));
        let negative = ErrorReply::redis("ERR timeout is negative");
        array(&["WAIT", "2", "-1"], |read| assert_eq!(read, Err(negative)));
    }
}
