//! How many processors there are, and what is done differently in a process that has only one, which it shares with
//! whoever else runs there.

use std::io;
use std::num::NonZero;
use std::sync::LazyLock;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Runtime};

/// How many there are; several, if the system does not tell.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(2, NonZero::get));

/// A runtime with a single thread on one processor, and otherwise with one thread per processor.
#[must_use]
pub fn runtime() -> Builder {
    if is_one() { Builder::new_current_thread() } else { Builder::new_multi_thread() }
}

/// A runtime for connections only, beside that of everything else, which their load then keeps waiting less. It leaves a
/// processor free.
///
/// # Errors
/// The system cannot start a thread.
pub fn runtime_for_connections() -> io::Result<Runtime> {
    let threads = PROCESSORS.saturating_sub(1).max(1);
    Builder::new_multi_thread().worker_threads(threads).thread_name("connections").enable_all().build()
}

/// Whether this process has only one processor.
#[must_use]
pub fn is_one() -> bool {
    *PROCESSORS == 1
}

/// Yields so that everything that has arrived is read before this task goes on. On one processor, await this before
/// carrying out and answering what has been read: a client on the same processor that reads an answer takes the
/// processor at once, sends one more request, and gives the processor back, and so on for each answer.
pub(crate) async fn all_read() {
    tokio::task::yield_now().await;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What tasks do, in order: `r` for a read, `w` for a write.
    static DONE: Mutex<String> = Mutex::new(String::new());

    async fn task() {
        let note = |what| DONE.lock().expect("nobody panics").push(what);
        note('r');
        all_read().await;
        note('w');
    }

    #[test]
    fn the_runtime_for_connections_leaves_a_processor_free_and_has_a_thread_in_any_case() {
        let threads = runtime_for_connections().expect("a runtime").metrics().num_workers();
        assert_eq!(threads, (*PROCESSORS - 1).max(1));
    }

    #[test]
    fn tasks_that_are_ready_at_once_all_read_before_the_first_writes() {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            for task in [tokio::spawn(task()), tokio::spawn(task())] {
                task.await.expect("it ends");
            }
        });
        assert_eq!(*DONE.lock().expect("nobody panics"), "rrww");
    }
}
