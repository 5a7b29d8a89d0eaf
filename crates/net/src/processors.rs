//! What is done otherwise where a process has one processor only, which it shares with whoever runs there.

use std::sync::LazyLock;

use tokio::runtime::Builder;

static IS_ONE: LazyLock<bool> =
    LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1));

/// A runtime of one thread where there is one processor, and else of one for each.
#[must_use]
pub fn runtime() -> Builder {
    if *IS_ONE { Builder::new_current_thread() } else { Builder::new_multi_thread() }
}

/// Lets all that has arrived have its turn before this task goes on, where there is one processor. To be awaited before
/// answers are written: a client on the same processor that reads one takes the processor at once, sends one request more,
/// and gives it back, for each answer anew. Where there are more processors nothing is waited for.
pub(crate) async fn end_of_turn() {
    end_of_turn_where(*IS_ONE).await;
}

async fn end_of_turn_where(is_one: bool) {
    if is_one {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What tasks do, in its order: `r` where one reads, `w` where it writes.
    static DONE: Mutex<String> = Mutex::new(String::new());

    async fn task(is_one: bool) {
        let note = |what| DONE.lock().expect("nobody panics").push(what);
        note('r');
        end_of_turn_where(is_one).await;
        note('w');
    }

    /// What two tasks do that are ready at once.
    fn done(is_one: bool) -> String {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            for task in [tokio::spawn(task(is_one)), tokio::spawn(task(is_one))] {
                task.await.expect("it ends");
            }
        });
        std::mem::take(&mut *DONE.lock().expect("nobody panics"))
    }

    #[test]
    fn on_one_processor_all_read_before_the_first_writes() {
        assert_eq!(done(true), "rrww");
        assert_eq!(done(false), "rwrw");
    }
}
