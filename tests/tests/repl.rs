//! The client's prompt, as a user at a terminal sees it.

use std::process::Command;

use e2e::client;
use e2e::cluster::{self, Cluster, Setup};
use e2e::process::program;
use e2e::terminal::{CTRL_C, CTRL_D, ENTER, TAB, Terminal, UP};
use tempfile::TempDir;

const PROMPT: &str = ">>";

struct Session {
    terminal: Terminal,
    home: TempDir,
}

impl Session {
    fn start(cluster: &Cluster) -> Self {
        Self::start_at(cluster, tempfile::tempdir().expect("a temporary directory can be made"))
    }

    fn start_at(cluster: &Cluster, home: TempDir) -> Self {
        let mut command = client::at_home(home.path());
        command.args(["--port", &cluster.coordinator.port.to_string()]);
        let session = Self { terminal: Terminal::start(command), home };
        session.terminal.last_line_is(PROMPT);
        session
    }

    /// Types a line, then waits for a line of the answer and for the next prompt.
    #[track_caller]
    fn says(&mut self, typed: &str, answer: &str) {
        self.terminal.types(&format!("{typed}{ENTER}"));
        self.terminal.shows_line(answer);
        self.terminal.last_line_is(PROMPT);
    }

    /// Waits for the farewell, and returns the home directory with the history.
    #[track_caller]
    fn ends_with_goodbye(mut self) -> TempDir {
        self.terminal.shows_line("Goodbye!");
        assert_eq!(self.terminal.wait_for_end(), 0);
        self.home
    }
}

#[test]
fn a_banner_lists_the_commands_with_a_word_on_each() {
    let cluster = cluster::shared();
    let session = Session::start(&cluster);
    let screen = session.terminal.screen();
    for command in ["PUT key value", "GET key", "DELETE key", "LIST_NODES", "EXIT"] {
        let line = screen.lines().find(|line| line.contains(command));
        let line = line.unwrap_or_else(|| panic!("the banner should list {command}:\n{screen}"));
        assert!(line.trim().len() > command.len() + 3, "with a word on it: {line:?}");
    }
}

#[test]
fn a_session_stores_reads_and_deletes() {
    let cluster = cluster::shared();
    let holders = cluster.holders("repl:1");
    let primary = &holders[0];
    // On a busy machine one of the replicas may be out of sync for a moment.
    let put = format!("[Client] PUT repl:1 = {{\"age\": 30}} [primary: {primary}, replicas: ['");
    let mut session = Session::start(&cluster);
    session.terminal.types(&format!("PUT repl:1 {{\"age\": 30}}{ENTER}"));
    session.terminal.shows(&put, |screen| screen.contains(&put));
    session.terminal.last_line_is(PROMPT);
    session.says("get repl:1", "[Client] GET repl:1 = {\"age\": 30}");
    session.says("delete repl:1", &format!("[Client] DELETE repl:1 [primary: {primary}]"));
    session.says("Get repl:1", "[Client] GET repl:1: NOT_FOUND");
    session.says("LIST_NODES", &format!("  {primary}"));
    session.says("GET_NODES_FOR_KEY repl:1", &format!("PRIMARY {primary}"));
    session.says("PUT repl:1", "Usage: PUT key value");
    session.says("FOO bar", "Unknown command: FOO");
    session.terminal.types(&format!("EXIT{ENTER}"));
    session.ends_with_goodbye();
}

#[test]
fn lines_that_come_together_are_carried_out_one_by_one() {
    let cluster = cluster::shared();
    let mut session = Session::start(&cluster);
    session.terminal.types("PUT together:1 a\rPUT together:2 b\rGET together:1\r");
    session.terminal.shows_line("[Client] GET together:1 = a");
    session.says("GET together:2", "[Client] GET together:2 = b");
    // A terminal marks pasted lines as such, and they are carried out once the last one is ended.
    session.terminal.types("\x1b[200~PUT pasted:1 a\nPUT pasted:2 b\n\x1b[201~\r");
    session.terminal.shows("the second", |screen| screen.contains("[Client] PUT pasted:2 = b"));
    session.says("GET pasted:1", "[Client] GET pasted:1 = a");
    session.says("GET pasted:2", "[Client] GET pasted:2 = b");
}

#[test]
fn help_lists_the_commands_again() {
    let cluster = cluster::shared();
    let mut session = Session::start(&cluster);
    let lists = |screen: &str| screen.matches("GET_NODES_FOR_KEY key").count();
    let before = lists(&session.terminal.screen());
    session.terminal.types(&format!("HELP{ENTER}"));
    session.terminal.shows("the commands once more", |screen| lists(screen) > before);
    session.terminal.last_line_is(PROMPT);
}

#[test]
fn exit_quit_and_ctrl_d_leave_with_goodbye() {
    let cluster = cluster::shared();
    for keys in ["EXIT\r", "exit\r", "QUIT\r", "Quit\r", CTRL_D] {
        let mut session = Session::start(&cluster);
        session.terminal.types(keys);
        session.ends_with_goodbye();
    }
}

#[test]
fn ctrl_c_clears_the_line_and_goes_on() {
    let cluster = cluster::shared();
    let mut session = Session::start(&cluster);
    assert_eq!(cluster.connect(0).ask("PUT repl-clear kept"), "OK");
    session.terminal.types("DELETE repl-clear");
    session.terminal.last_line_is(">> DELETE repl-clear");
    session.terminal.types(CTRL_C);
    session.terminal.last_line_is(PROMPT);
    // Nothing is left of the line, and nothing was executed.
    session.says("GET repl-clear", "[Client] GET repl-clear = kept");
    session.terminal.types(CTRL_D);
    session.ends_with_goodbye();
}

#[test]
fn tab_completes_commands() {
    let cluster = cluster::shared();
    let mut session = Session::start(&cluster);
    session.terminal.types(&format!("LIST{TAB}"));
    session.terminal.last_line_is(">> LIST_NODES");
    session.terminal.types(ENTER);
    session.terminal.shows_line("OK Nodes:");
    session.terminal.last_line_is(PROMPT);
    session.terminal.types(&format!("del{TAB}repl-tab{ENTER}"));
    session.terminal.shows("the completed command", |screen| screen.contains("[Client] DELETE repl-tab [primary: "));
}

#[test]
fn a_hint_shows_what_a_command_takes() {
    let cluster = cluster::shared();
    let mut session = Session::start(&cluster);
    session.terminal.types("PUT");
    session.terminal.shows("a hint of the words that PUT takes", |screen| {
        let line = screen.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
        line.starts_with(">> PUT") && line.contains("key value")
    });
    session.terminal.types(CTRL_C);
    session.terminal.last_line_is(PROMPT);
    session.terminal.types(CTRL_D);
    session.ends_with_goodbye();
}

#[test]
fn the_history_is_kept_between_sessions() {
    let cluster = cluster::shared();
    let mut session = Session::start(&cluster);
    session.says("GET repl-history", "[Client] GET repl-history: NOT_FOUND");
    session.terminal.types(CTRL_D);
    let home = session.ends_with_goodbye();
    let mut session = Session::start_at(&cluster, home);
    session.terminal.types(UP);
    session.terminal.last_line_is(">> GET repl-history");
    session.terminal.types(ENTER);
    session.terminal.shows_line("[Client] GET repl-history: NOT_FOUND");
}

#[test]
fn a_key_and_value_of_other_scripts_are_typed_and_shown() {
    let cluster = cluster::shared();
    let mut session = Session::start(&cluster);
    session.terminal.types(&format!("PUT ключ значение 🦀{ENTER}"));
    session.terminal.shows("the stored value", |screen| screen.contains("[Client] PUT ключ = значение 🦀 [primary: "));
    session.says("GET ключ", "[Client] GET ключ = значение 🦀");
}

#[test]
fn a_session_goes_on_across_a_failover() {
    let mut cluster = Setup { heartbeat_timeout: "1s", ..Setup::default() }.start();
    let key = cluster.key_led_by(0, "repl-failover");
    let mut session = Session::start(&cluster);
    session.terminal.types(&format!("PUT {key} Alice{ENTER}"));
    session.terminal.shows("the stored value", |screen| screen.contains(&format!("[Client] PUT {key} = Alice [")));
    cluster.wait_until_level();
    cluster.kill(0);
    session.terminal.types(&format!("GET {key}{ENTER}"));
    session.terminal.shows("the value", |screen| screen.contains(&format!("[Client] GET {key} = Alice")));
    // The session has connections to a dead node and an outdated map; it waits for the new primary by itself.
    session.terminal.types(&format!("PUT {key} Bob{ENTER}"));
    session.terminal.shows("the new value", |screen| screen.contains(&format!("[Client] PUT {key} = Bob [primary: ")));
    session.says(&format!("GET {key}"), &format!("[Client] GET {key} = Bob"));
    session.terminal.types(CTRL_D);
    session.ends_with_goodbye();
}

#[test]
fn a_raw_value_without_a_newline_stays_above_the_prompt() {
    let cluster = cluster::shared();
    assert_eq!(client::command(cluster.coordinator.port, "PUT repl:raw value", &[]).code, Some(0));
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let mut command = client::at_home(home.path());
    command.args(["--raw", "--port", &cluster.coordinator.port.to_string()]);
    let mut session = Session { terminal: Terminal::start(command), home };
    session.terminal.last_line_is(PROMPT);
    session.says("GET repl:raw", "value");
}

#[test]
fn a_reader_of_the_output_that_has_seen_enough_is_no_failure() {
    let cluster = cluster::shared();
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let mut command = Command::new("sh");
    let program = program("client");
    let port = cluster.coordinator.port;
    let line = format!("{{ '{}' --port {port}; echo code $? >&2; }} | head -1", program.display());
    command.args(["-c", &line]).env("HOME", home.path()).env_remove("KV_HISTORY");
    let mut terminal = Terminal::start(command);
    terminal.shows("the first line of the banner", |screen| screen.contains("Connected to the coordinator at "));
    // The prompt may have been written before the reader was gone.
    terminal.types(&format!("GET repl:1{ENTER}"));
    terminal.shows_line("code 0");
    assert!(!terminal.screen().contains("client: "), "{}", terminal.screen());
}
