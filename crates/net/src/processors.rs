//! What is done differently in a process that has only one processor, which it shares with whoever else runs there.

use std::sync::LazyLock;

use tokio::runtime::Builder;

static IS_ONE: LazyLock<bool> =
    LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1));

/// A runtime with a single thread on one processor, and otherwise with one thread per processor.
#[must_use]
pub fn runtime() -> Builder {
    if is_one() { Builder::new_current_thread() } else { Builder::new_multi_thread() }
}

/// Whether this process has only one processor.
#[must_use]
pub fn is_one() -> bool {
    *IS_ONE
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
