//! RESP commands about the connection and the server: what they do, and Redis's answers to them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::time::Timestamp;
use net::connection::Flow;
use proto::commands::{Argument, COMMANDS, Command, Kind, arguments};
use proto::error::ErrorReply;
use proto::frame::{Encoding, Frame};
use proto::request::{Auth, ClientCommand, CommandQuery, Hello, NamesOrPattern, RawWords, ServerCommand, glob_matches};
use proto::resp::Resp;
use proto::response::Response;

use crate::clients::{Client, Clients, Details, Listed};
use crate::driver::Driver;
use crate::info::{self, REDIS_VERSION};

const HELLO_NEEDS_AUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
     HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
     same time";

/// One connection, as far as these commands are concerned.
#[derive(Debug)]
pub(crate) struct Front {
    clients: Arc<Clients>,
    listed: Listed,
    /// How arrays are answered: in RESP2, or in RESP3 once that was requested.
    arrays: Encoding,
    /// How lines are answered: as lines, until `HELLO` has shown that this is a Redis client.
    lines: Encoding,
    /// Only empty lines have arrived since the last array.
    passes_empty_lines: bool,
    /// The client has sent `MULTI`, and neither `EXEC` nor `DISCARD` since.
    is_in_transaction: bool,
    /// The client has authenticated, or need not.
    is_admitted: bool,
}

/// What remains to be done for a command beyond the connection itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandOutcome {
    /// It is answered.
    Answered(Flow),
    /// It is answered, and the client has given the password if there is one.
    Admitted,
    /// It is answered, and the client has given a wrong password or user.
    WrongPassword,
    /// It is answered, and the connection must be reset to its initial state.
    Reset,
    /// All keys must be counted.
    Count,
    /// See [`crate::wait`].
    Wait {
        /// How many replicas.
        replicas: u64,
        /// For how long.
        millis: u64,
    },
}

impl Front {
    /// A connection on which nothing has been sent yet.
    #[must_use]
    pub(crate) fn new(clients: &Arc<Clients>, listed: Listed) -> Self {
        Self {
            clients: Arc::clone(clients),
            listed,
            arrays: Encoding::Array,
            lines: Encoding::Line,
            passes_empty_lines: false,
            is_in_transaction: false,
            is_admitted: clients.shared.access.password().is_none(),
        }
    }

    /// How to answer a frame; `None`: not at all. Like Redis, it skips empty arrays and empty lines: Redis clients
    /// sometimes send empty lines between arrays.
    #[must_use]
    pub(crate) fn encoding(&mut self, frame: Frame<'_>) -> Option<Encoding> {
        let passes_empty_lines = self.passes_empty_lines || self.lines != Encoding::Line;
        self.passes_empty_lines = match frame {
            Frame::Array(_) => true,
            Frame::Line(line) => line.is_empty() && passes_empty_lines,
        };
        match frame {
            Frame::Array(words) if words.is_empty() => None,
            Frame::Array(_) => Some(self.arrays),
            Frame::Line(b"") if passes_empty_lines => None,
            Frame::Line(_) if frame.has_verb(b"HELLO") => Some(self.arrays),
            Frame::Line(_) => Some(self.lines),
        }
    }

    /// Notes a request that could not be understood: it may begin a transaction, which is not supported.
    pub(crate) fn note_multi(&mut self, frame: Frame<'_>, encoding: Encoding) {
        self.is_in_transaction |= encoding != Encoding::Line && frame.is_only(b"MULTI");
    }

    /// Refuses a command inside a transaction; `None` outside of one. IMPORTANT: the client must learn that the
    /// transaction has failed, because it will retry whatever it believes was not done.
    #[must_use]
    pub(crate) fn refuse_in_transaction(&mut self, frame: Frame<'_>) -> Option<Response<'static>> {
        if !self.is_in_transaction {
            return None; // As good as always.
        }
        let (ends, discards) = (frame.has_verb(b"EXEC"), frame.is_only(b"DISCARD"));
        let resets = [b"RESET".as_slice(), b"QUIT"].iter().any(|verb| frame.has_verb(verb));
        self.is_in_transaction = !(ends || discards || resets);
        (!resets).then_some(match (ends, discards) {
            (true, _) => {
                Response::Error(ErrorReply::redis("EXECABORT Transaction discarded because of previous errors."))
            }
            (_, true) => Response::Ok,
            _ => Response::Error(ErrorReply::redis("ERR not carried out: transactions (MULTI) are not supported")),
        })
    }

    /// All connections.
    #[must_use]
    pub(crate) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// The list entry of this connection.
    #[must_use]
    pub(crate) fn client(&self) -> &Client {
        &self.listed.client
    }

    /// Carries out a command and answers it, unless the returned [`CommandOutcome`] leaves that to the caller.
    pub(crate) fn execute(
        &mut self,
        driver: &Driver,
        now: Timestamp,
        command: ServerCommand<'_>,
        encoding: Encoding,
        out: &mut Vec<u8>,
    ) -> CommandOutcome {
        self.clients.add_command();
        self.client().heard(now, table_index(command));
        let mut resp = Resp::new(encoding, out);
        match command {
            ServerCommand::Ping(None) => {
                resp.simple("PONG");
            }
            ServerCommand::Ping(Some(message)) | ServerCommand::Echo(message) => {
                resp.bulk(message);
            }
            ServerCommand::Hello(hello) => return self.hello(hello, encoding, out),
            ServerCommand::Auth(auth) => {
                if let Err(error) = self.admit(auth) {
                    Response::Error(error).encode(encoding, out);
                    return CommandOutcome::WrongPassword;
                }
                Response::Ok.encode(encoding, out);
                return CommandOutcome::Admitted;
            }
            ServerCommand::Select => {
                resp.simple("OK");
            }
            ServerCommand::Quit => {
                resp.simple("OK");
                return CommandOutcome::Answered(Flow::Close);
            }
            ServerCommand::Reset => {
                (self.arrays, self.lines) = (Encoding::Array, Encoding::Line);
                *self.client().details() = Details::default();
                self.is_admitted = self.clients.shared.access.password().is_none();
                resp.simple("RESET");
                return CommandOutcome::Reset;
            }
            ServerCommand::Client(command) => self.client_command(command, now, &mut resp),
            ServerCommand::Command(query) => command_query(query, &mut resp),
            ServerCommand::ConfigGet(patterns) => {
                let settings = info::config(driver, &self.clients, patterns.0);
                resp.map(settings.len());
                for (name, value) in settings {
                    resp.bulk(name).bulk(value);
                }
            }
            ServerCommand::Info(sections) => {
                resp.text(&info::info(driver, &self.clients, sections.0));
            }
            ServerCommand::Time => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                resp.array(2).bulk(now.as_secs().to_string()).bulk(now.subsec_micros().to_string());
            }
            ServerCommand::Role => role(driver, &mut resp),
            ServerCommand::Help(container) => help(container, &mut resp),
            ServerCommand::DbSize => return CommandOutcome::Count,
            ServerCommand::Wait { replicas, millis } => return CommandOutcome::Wait { replicas, millis },
        }
        CommandOutcome::Answered(Flow::Next)
    }

    fn admit(&mut self, auth: Auth<'_>) -> Result<(), ErrorReply> {
        self.clients.shared.access.admit(auth, self.client().addr())?;
        self.is_admitted = true;
        Ok(())
    }

    /// Whether the client has authenticated, or need not.
    #[must_use]
    pub(crate) fn is_admitted(&self) -> bool {
        self.is_admitted
    }

    fn hello(&mut self, hello: Hello<'_>, encoding: Encoding, out: &mut Vec<u8>) -> CommandOutcome {
        if let Some((user, password)) = hello.auth
            && let Err(error) = self.admit(Auth { user: Some(user), password })
        {
            Response::Error(error).encode(encoding, out);
            return CommandOutcome::WrongPassword;
        }
        if !self.is_admitted {
            Response::Error(ErrorReply::redis(HELLO_NEEDS_AUTH)).encode(encoding, out);
            return CommandOutcome::Answered(Flow::Next);
        }
        if let Some(is_three) = hello.is_three {
            self.arrays = if is_three { Encoding::Resp3 } else { Encoding::Array };
        }
        self.lines = self.arrays;
        let is_three = self.arrays == Encoding::Resp3;
        {
            let mut details = self.client().details();
            details.is_three = is_three;
            if let Some(name) = hello.name {
                details.name = text(name);
            }
        }
        let mut resp = Resp::new(self.arrays, out);
        resp.map(7).bulk("server").bulk("redis").bulk("version").bulk(REDIS_VERSION);
        resp.bulk("proto").number(if is_three { 3 } else { 2 });
        resp.bulk("id").number(number(self.client().id));
        resp.bulk("mode").bulk("standalone").bulk("role").bulk("master").bulk("modules").array(0);
        CommandOutcome::Admitted
    }

    fn client_command(&mut self, command: ClientCommand<'_>, now: Timestamp, resp: &mut Resp<'_>) {
        let client = self.client();
        let _ = match command {
            ClientCommand::Id => resp.number(number(client.id)),
            ClientCommand::Info => resp.text(&(client.line(now) + "\n")),
            ClientCommand::List(ids) => {
                let ids = ids.map(|ids| ids.0.map(|id| text(id).parse().unwrap_or(0)).collect::<BTreeSet<u64>>());
                let lines = self.clients.select(ids.as_ref());
                let lines = lines.iter().map(|client| client.line(now) + "\n");
                resp.text(&lines.collect::<String>())
            }
            ClientCommand::ListNone => resp.text(""),
            ClientCommand::GetName => {
                let name = client.details().name.clone();
                if name.is_empty() { resp.null() } else { resp.bulk(name) }
            }
            _ => {
                set(&mut client.details(), command);
                resp.simple("OK")
            }
        };
    }
}

/// Notes what a client says about itself.
fn set(details: &mut Details, command: ClientCommand<'_>) {
    match command {
        ClientCommand::SetName(name) => details.name = text(name),
        ClientCommand::SetLibraryName(name) => details.library = text(name),
        ClientCommand::SetLibraryVersion(version) => details.library_version = text(version),
        ClientCommand::NoEvict(on) => details.no_evict = on,
        ClientCommand::NoTouch(on) => details.no_touch = on,
        ClientCommand::Id
        | ClientCommand::Info
        | ClientCommand::List(_)
        | ClientCommand::ListNone
        | ClientCommand::GetName => {}
    }
}

/// A node presents itself as a master with its replicas.
fn role(driver: &Driver, resp: &mut Resp<'_>) {
    let (offset, replicas) = info::replicas(driver);
    resp.array(3).bulk("master").number(number(offset as u64)).array(replicas.len());
    for (outbox, lag) in replicas {
        let addr = &outbox.addr;
        resp.array(3).bulk(addr.host()).bulk(addr.port().to_string()).bulk((offset - lag.items).to_string());
    }
}

fn command_query(query: CommandQuery<'_>, resp: &mut Resp<'_>) {
    match query {
        CommandQuery::Count => {
            resp.number(COMMANDS.len() as i64);
        }
        CommandQuery::Info(RawWords(names)) if names.is_empty() => {
            resp.array(COMMANDS.len());
            COMMANDS.iter().for_each(|command| encode_info(command, resp));
        }
        CommandQuery::Info(RawWords(names)) => {
            resp.array(names.len());
            for name in names {
                match Command::named(name) {
                    Some(command) => encode_info(command, resp),
                    None => {
                        resp.null();
                    }
                }
            }
        }
        CommandQuery::Docs(RawWords(names)) => {
            let mut wanted: Vec<&Command> = if names.is_empty() {
                COMMANDS.iter().collect()
            } else {
                names.filter_map(Command::documented).collect()
            };
            let mut told = BTreeSet::new();
            wanted.retain(|command| told.insert(command.name));
            resp.map(wanted.len());
            wanted.into_iter().for_each(|command| encode_docs(command, resp));
        }
        CommandQuery::List(which) => {
            let names: Vec<&str> =
                COMMANDS.iter().filter(|command| is_listed(command, which)).map(|command| command.name).collect();
            resp.array(names.len());
            for name in names {
                resp.bulk(name);
            }
        }
    }
}

/// The subcommands of a command, with two lines for each, as Redis lists them.
fn help(container: &Command, resp: &mut Resp<'_>) {
    let name = container.name.to_ascii_uppercase();
    resp.array(1 + 2 * container.subcommands().count());
    resp.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for part in container.subcommands() {
        let subcommand = part.name.split_once('|').map_or(part.name, |(_, subcommand)| subcommand);
        resp.simple(format!("{} {}", subcommand.to_ascii_uppercase(), part.syntax).trim_end());
        resp.simple(&format!("    {}.", part.summary));
    }
}

fn is_listed(command: &Command, which: NamesOrPattern<'_>) -> bool {
    match which {
        NamesOrPattern::All => true,
        NamesOrPattern::Pattern(pattern) => glob_matches(&pattern.to_ascii_lowercase(), command.name.as_bytes()),
        NamesOrPattern::Category(category) => command
            .categories()
            .any(|has| has.strip_prefix('@').is_some_and(|has| has.as_bytes().eq_ignore_ascii_case(category))),
        NamesOrPattern::Module => false,
    }
}

/// A command as `COMMAND INFO` describes it: ten elements. The last three, tips, key specifications and subcommands,
/// are left empty.
fn encode_info(command: &Command, resp: &mut Resp<'_>) {
    let (first, last, step) = command.keys;
    resp.array(10).bulk(command.name).number(command.arity.into()).set(command.flags.len());
    for flag in command.flags {
        resp.simple(flag);
    }
    resp.number(first.into()).number(last.into()).number(step.into());
    resp.set(command.categories().count());
    for category in command.categories() {
        resp.simple(category);
    }
    resp.set(0).set(0).set(0);
}

/// A command as `COMMAND DOCS` describes it; clients build their hints from it.
fn encode_docs(command: &Command, resp: &mut Resp<'_>) {
    let (arguments, parts) = (arguments(command.syntax), command.subcommands());
    let more = usize::from(!arguments.is_empty()) + usize::from(parts.clone().next().is_some());
    resp.bulk(command.name).map(3 + more).bulk("summary").bulk(command.summary);
    resp.bulk("since").bulk(command.since).bulk("group").bulk(command.group);
    if !arguments.is_empty() {
        resp.bulk("arguments");
        list_arguments(&arguments, resp);
    }
    if parts.clone().next().is_some() {
        resp.bulk("subcommands").map(parts.clone().count());
        parts.for_each(|part| encode_docs(part, resp));
    }
}

fn list_arguments(arguments: &[Argument], resp: &mut Resp<'_>) {
    resp.array(arguments.len());
    for Argument { name, token, kind, is_optional, is_multiple } in arguments {
        let (kind, inside) = match kind {
            Kind::Plain(kind) => (*kind, None),
            Kind::Token => ("pure-token", None),
            Kind::OneOf(inside) => ("oneof", Some(inside)),
            Kind::Block(inside) => ("block", Some(inside)),
        };
        let flags = [(*is_optional, "optional"), (*is_multiple, "multiple")];
        let flags = flags.into_iter().filter_map(|(has, flag)| has.then_some(flag));
        let has_flags = flags.clone().next().is_some();
        let more = usize::from(token.is_some()) + usize::from(has_flags) + usize::from(inside.is_some());
        resp.map(2 + more).bulk("name").bulk(name).bulk("type").bulk(kind);
        if let Some(token) = token {
            resp.bulk("token").bulk(token);
        }
        if has_flags {
            resp.bulk("flags").set(flags.clone().count());
            for flag in flags {
                resp.simple(flag);
            }
        }
        if let Some(inside) = inside {
            resp.bulk("arguments");
            list_arguments(inside, resp);
        }
    }
}

/// The index of a command in the table.
fn table_index(command: ServerCommand<'_>) -> Option<usize> {
    let name = match command {
        ServerCommand::Ping(_) => "ping",
        ServerCommand::Echo(_) => "echo",
        ServerCommand::Hello(_) => "hello",
        ServerCommand::Auth(_) => "auth",
        ServerCommand::Select => "select",
        ServerCommand::Quit => "quit",
        ServerCommand::Reset => "reset",
        ServerCommand::Client(_) => "client",
        ServerCommand::Command(_) => "command",
        ServerCommand::ConfigGet(_) => "config",
        ServerCommand::Info(_) => "info",
        ServerCommand::DbSize => "dbsize",
        ServerCommand::Time => "time",
        ServerCommand::Role => "role",
        ServerCommand::Wait { .. } => "wait",
        ServerCommand::Help(container) => container.name,
    };
    COMMANDS.iter().position(|command| command.name == name)
}

fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
