//! What is done otherwise where a process has one processor only, which it shares with whoever runs there.

use std::sync::LazyLock;

use tokio::runtime::Builder;

static IS_ONE: LazyLock<bool> =
    LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1));

/// A runtime of one thread where there is one processor, and else of one for each.
#[must_use]
pub fn runtime() -> Builder {
    if is_one() { Builder::new_current_thread() } else { Builder::new_multi_thread() }
}

/// Whether this process has one processor only.
#[must_use]
pub fn is_one() -> bool {
    *IS_ONE
}

/// Lets all that has arrived be read before this task goes on. To be awaited where there is one processor, before what has been
/// read is carried out and answered: a client on the same processor that reads an answer takes the processor at once, sends one
/// request more, and gives it back, for each answer anew.
pub(crate) async fn all_read() {
    tokio::task::yield_now().await;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What tasks do, in its order: `r` where one reads, `w` where it writes.
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
