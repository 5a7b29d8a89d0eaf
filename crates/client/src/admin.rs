//! Questions that the coordinator answers, questions to a node about itself, and an operator's commands to the
//! coordinator. Each is asked once; a failure to answer is reported at once.

use std::time::Duration;

use proto::error::ErrorReply;
use proto::id::NodeAddr;
use proto::request::{LONGEST_HEALTHY_WAIT, verbs};
use tokio::time::{Instant, sleep};

use crate::answer::{NotAnAnswer, Request};
use crate::client::{Client, checked_key};
use crate::cluster::Cluster;
use crate::connection::{Failure, Timeouts};
use crate::error::Error;
use crate::level::LevelRequirement;
use crate::many::side_by_side;
use crate::placement::Placement;

/// How much longer than other calls a node may take to compare copies.
const VERIFIED_WITHIN: Duration = Duration::from_secs(10 * 60);

/// How often to look for a coordinator that is away.
const COORDINATOR_PAUSE: Duration = Duration::from_millis(200);

/// Whom to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whom<'a> {
    Coordinator,
    Node(&'a NodeAddr),
}

/// Which slots a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slots {
    /// The slot with this number.
    One(u16),
    /// All slots.
    All,
}

impl Client {
    /// Lists the registered nodes, sorted, as the coordinator sees them.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// assert_eq!(client.list_nodes().await?.len(), 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotReached`] if the coordinator does not answer. It is asked once.
    pub async fn list_nodes(&self) -> Result<Vec<NodeAddr>, Error> {
        let question = Request::question(verbs::LIST_NODES, None);
        let lines = ask(&self.cluster, Whom::Coordinator, question, |first| first == "OK Nodes:").await?;
        let nodes = match lines.split_first() {
            Some((first, nodes)) if first == "OK Nodes:" => nodes,
            Some((first, [])) if first == "OK No nodes registered" => &[],
            _ => return Err(no_protocol(&self.cluster, Whom::Coordinator)),
        };
        let nodes = nodes.iter().map(|node| node.strip_prefix("  ")?.parse().ok());
        nodes.collect::<Option<_>>().ok_or_else(|| no_protocol(&self.cluster, Whom::Coordinator))
    }

    /// Who holds a key now, as the coordinator sees it.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// let placement = client.nodes_for_key("user:1").await?;
    /// assert_eq!(placement.replicas.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotReached`] if the coordinator does not answer; [`Error::Refused`] if no node is registered. It is
    /// asked once.
    pub async fn nodes_for_key(&self, key: impl AsRef<[u8]>) -> Result<Placement, Error> {
        let request = Request::question(verbs::GET_NODES_FOR_KEY, Some(checked_key(key.as_ref())?));
        let lines = ask(&self.cluster, Whom::Coordinator, request, |first| first.starts_with("PRIMARY ")).await?;
        Placement::from_lines(&lines).ok_or_else(|| no_protocol(&self.cluster, Whom::Coordinator))
    }

    /// What the coordinator reports about itself, on one line.
    ///
    /// # Errors
    /// [`Error::NotReached`] if it does not answer. It is asked once.
    pub async fn info(&self) -> Result<String, Error> {
        info(&self.cluster, Whom::Coordinator).await
    }

    /// What a node reports about itself, on one line: `OK Node host:port keys=N`, and more words of the form
    /// `name=value`.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(1).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// for node in client.list_nodes().await? {
    ///     assert_eq!(client.node_info(&node).await?, format!("OK Node {node} keys=0"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotReached`] if the node does not answer. It is asked once.
    pub async fn node_info(&self, node: &NodeAddr) -> Result<String, Error> {
        info(&self.cluster, Whom::Node(node)).await
    }

    /// The coordinator's statistics, each with its name, in the coordinator's order.
    ///
    /// # Errors
    /// [`Error::NotReached`] if it does not answer. It is asked once.
    pub async fn stats(&self) -> Result<Vec<(String, u64)>, Error> {
        stats(&self.cluster, Whom::Coordinator).await
    }

    /// A node's statistics, each with its name, in the node's order. Those about requests count its own clients' since
    /// its start.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(1).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// for node in client.list_nodes().await? {
    ///     let stats = client.node_stats(&node).await?;
    ///     assert!(stats.contains(&("keys".to_owned(), 0)));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotReached`] if the node does not answer. It is asked once.
    pub async fn node_stats(&self, node: &NodeAddr) -> Result<Vec<(String, u64)>, Error> {
        stats(&self.cluster, Whom::Node(node)).await
    }

    /// The state of the slots as the coordinator reports it, one line each. The first begins with `OK Status` and a
    /// word, which is `healthy` if every slot has all its copies and nothing is moving.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(1).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// assert!(client.status().await?[0].starts_with("OK Status healthy: "));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotReached`] if the coordinator does not answer. It is asked once.
    pub async fn status(&self) -> Result<Vec<String>, Error> {
        let is_status = |first: &str| first.starts_with("OK Status ");
        let lines = ask(&self.cluster, Whom::Coordinator, Request::question(verbs::STATUS, None), is_status).await?;
        let is_answer = lines.first().is_some_and(|first| is_status(first));
        if is_answer { Ok(lines) } else { Err(no_protocol(&self.cluster, Whom::Coordinator)) }
    }

    /// Waits until every slot has a primary and all its copies in sync, and nothing is moving, for at most `span`, or a
    /// day if that is shorter. A coordinator that is away, such as one that is being restarted, is waited for.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(1).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// client.wait_healthy(std::time::Duration::from_secs(90)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] if the cluster did not become healthy in time; the reason begins with `TIMEOUT` and names
    /// what is missing. [`Error::NotReached`] if the coordinator cannot be reached at the end of that time.
    pub async fn wait_healthy(&self, span: Duration) -> Result<(), Error> {
        self.wait_healthy_since(Instant::now().into_std(), span).await
    }

    /// The same for at most `span` since an earlier moment, for instance that before connecting. The coordinator is
    /// asked even if this time has passed.
    ///
    /// # Errors
    /// As [`Client::wait_healthy`].
    pub async fn wait_healthy_since(&self, begun: std::time::Instant, span: Duration) -> Result<(), Error> {
        let span = span.min(LONGEST_HEALTHY_WAIT);
        let until = Instant::from_std(begun) + span;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // The coordinator is asked at least once, and repeats this number.
            let millis = left.as_millis().max(1);
            let word = format!("{millis}ms");
            let request = Request::question(verbs::WAIT_HEALTHY, Some(word.as_bytes()));
            let timeouts = Timeouts::until(self.cluster.deadline() + left);
            match ask_within(&self.cluster, Whom::Coordinator, request, one_line, timeouts).await {
                Err(Error::NotReached { .. }) if Instant::now() + COORDINATOR_PAUSE < until => {
                    sleep(COORDINATOR_PAUSE).await;
                }
                // What was left for this attempt says nothing to whoever has waited for longer.
                Err(Error::Refused { by, reason }) => {
                    let [given, asked] =
                        [millis, span.as_millis()].map(|millis| format!("not healthy after {millis} ms"));
                    return Err(Error::Refused { by, reason: reason.replacen(&given, &asked, 1) });
                }
                Err(error) => return Err(error),
                Ok(lines) if lines == ["OK"] => return Ok(()),
                Ok(_) => return Err(no_protocol(&self.cluster, Whom::Coordinator)),
            }
        }
    }

    /// Has a node compare the copies of every slot it leads, now. Returns its report, one line each. The first begins
    /// with `OK Verified equal:`, or with `OK Verified different:` if a copy differed; such a copy is then filled
    /// again.
    ///
    /// # Errors
    /// [`Error::NotReached`] if the node does not answer within ten minutes. It is asked once.
    pub async fn verify(&self, node: &NodeAddr) -> Result<Vec<String>, Error> {
        let whom = Whom::Node(node);
        let is_report = |first: &str| first.starts_with("OK Verified ");
        let timeouts = Timeouts::until(self.cluster.deadline() + VERIFIED_WITHIN);
        let request = Request::question(verbs::VERIFY, None);
        let lines = ask_within(&self.cluster, whom, request, is_report, timeouts).await?;
        let is_answer = lines.first().is_some_and(|first| is_report(first));
        if is_answer { Ok(lines) } else { Err(no_protocol(&self.cluster, whom)) }
    }

    /// Does the same on every registered node, all at the same time.
    ///
    /// # Errors
    /// As [`Client::list_nodes`] if the coordinator does not name the nodes; [`Error::Refused`] if it has none.
    pub async fn verify_all(&self) -> Result<Vec<(NodeAddr, Result<Vec<String>, Error>)>, Error> {
        let nodes = self.list_nodes().await?;
        if nodes.is_empty() {
            return Err(Error::Refused { by: None, reason: ErrorReply::NoNodes.to_string() });
        }
        let asked = nodes.into_iter().map(|node| {
            let client = self.clone();
            async move {
                let told = client.verify(&node).await;
                (node, told)
            }
        });
        Ok(side_by_side(asked, usize::MAX).await)
    }

    /// The writes that a node has dropped because a new primary may not have them, one human-readable line each. Of those
    /// that were answered, only writes at [`AckLevel::Async`] can be lost. Compare with the keys before writing one again.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(1).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// for node in client.list_nodes().await? {
    ///     assert!(client.losses(&node).await?.is_empty());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotReached`] if the node does not answer. It is asked once.
    ///
    /// [`AckLevel::Async`]: crate::AckLevel::Async
    pub async fn losses(&self, node: &NodeAddr) -> Result<Vec<String>, Error> {
        let whom = Whom::Node(node);
        let has_more = |first: &str| first.starts_with("OK ") && first.ends_with(':');
        let mut lines = ask(&self.cluster, whom, Request::question(verbs::LOSSES, None), has_more).await?;
        match lines.first() {
            Some(first) if has_more(first) => Ok(lines.split_off(1)),
            Some(first) if first == "OK No losses" => Ok(Vec::new()),
            _ => Err(no_protocol(&self.cluster, whom)),
        }
    }

    /// Has the coordinator stop waiting for what a node of an earlier coordinator's map has to report. What only that
    /// node holds is lost. Returns the coordinator's reply, one line.
    ///
    /// # Errors
    /// [`Error::NotReached`] if nobody could be asked, [`Error::Refused`] if there is no such node, [`Error::Unknown`]
    /// if no answer came. It is asked once, and may be asked again.
    pub async fn forget(&self, node: &NodeAddr) -> Result<String, Error> {
        tell(&self.cluster, Request::question(verbs::FORGET, Some(node.as_str().as_bytes()))).await
    }

    /// Takes a node off the ring, whether or not it is running, and gives up what it alone holds. Returns the
    /// coordinator's reply, one line. To have the node hand over its data first, use [`Client::decommission`].
    ///
    /// # Errors
    /// As [`Client::forget`], with [`Error::Refused`] also while a coordinator without state waits for the node.
    pub async fn unregister(&self, node: &NodeAddr) -> Result<String, Error> {
        let (host, port) = (node.host().as_bytes(), node.port().to_string());
        tell(&self.cluster, Request::questions(verbs::UNREGISTER_NODE, &[host, port.as_bytes()])).await
    }

    /// Has a node leave for good: it hands its slots over, deletes its data and exits. Returns the coordinator's reply,
    /// one line that says of how many slots the node still has copies; call again to follow the progress.
    ///
    /// # Errors
    /// As [`Client::forget`]; also refused if no other node would stay.
    pub async fn decommission(&self, node: &NodeAddr) -> Result<String, Error> {
        self.tell_of(verbs::DECOMMISSION, &[node]).await
    }

    /// Has a node that was to leave for good stay, as long as it has not handed everything over. Returns the
    /// coordinator's reply, one line.
    ///
    /// # Errors
    /// As [`Client::forget`].
    pub async fn recommission(&self, node: &NodeAddr) -> Result<String, Error> {
        self.tell_of(verbs::RECOMMISSION, &[node]).await
    }

    /// Has a node leave for good, as by [`Client::decommission`], once another has joined to take its place. Returns
    /// the coordinator's reply, one line.
    ///
    /// # Errors
    /// As [`Client::decommission`].
    pub async fn replace(&self, old: &NodeAddr, new: &NodeAddr) -> Result<String, Error> {
        self.tell_of(verbs::REPLACE, &[old, new]).await
    }

    async fn tell_of(&self, verb: &str, nodes: &[&NodeAddr]) -> Result<String, Error> {
        let nodes: Vec<&[u8]> = nodes.iter().map(|node| node.as_str().as_bytes()).collect();
        tell(&self.cluster, Request::questions(verb, &nodes)).await
    }

    /// Has slots without a copy that may lead start anew, with whatever is left of them. Returns the coordinator's
    /// reply, one line that says how many slots there were.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(1).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// assert!(client.accept_loss(client::Slots::One(12)).await?.starts_with("OK 1 "));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::forget`], with [`Error::Refused`] if no slot has this number, or while the coordinator takes its
    /// state over from the nodes.
    pub async fn accept_loss(&self, slots: Slots) -> Result<String, Error> {
        let word = match slots {
            Slots::One(slot) => slot.to_string(),
            Slots::All => "all".to_owned(),
        };
        tell(&self.cluster, Request::question(verbs::ACCEPT_LOSS, Some(word.as_bytes()))).await
    }

    /// Checks that the coordinator responds.
    ///
    /// # Errors
    /// [`Error::NotReached`] if it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        ping(&self.cluster, Whom::Coordinator).await
    }

    /// Checks that a node responds.
    ///
    /// # Errors
    /// [`Error::NotReached`] if it does not.
    pub async fn ping_node(&self, node: &NodeAddr) -> Result<(), Error> {
        ping(&self.cluster, Whom::Node(node)).await
    }
}

async fn info(cluster: &Cluster, whom: Whom<'_>) -> Result<String, Error> {
    match ask(cluster, whom, Request::question(verbs::INFO, None), one_line).await?.as_slice() {
        [info] if info.starts_with("OK ") => Ok(info.clone()),
        _ => Err(no_protocol(cluster, whom)),
    }
}

async fn stats(cluster: &Cluster, whom: Whom<'_>) -> Result<Vec<(String, u64)>, Error> {
    let has_more = |first: &str| first.starts_with("OK ") && first.ends_with(" stats:");
    let lines = ask(cluster, whom, Request::question(verbs::STATS, None), has_more).await?;
    let figures = lines.split_first().filter(|(first, _)| has_more(first)).map(|(_, figures)| figures);
    let parsed = figures.and_then(|figures| {
        let figure = |line: &String| {
            let (name, figure) = line.split_once(' ')?;
            Some((name.to_owned(), figure.parse().ok()?))
        };
        figures.iter().map(figure).collect::<Option<_>>()
    });
    parsed.ok_or_else(|| no_protocol(cluster, whom))
}

async fn ping(cluster: &Cluster, whom: Whom<'_>) -> Result<(), Error> {
    match ask(cluster, whom, Request::question(verbs::PING, None), one_line).await?.as_slice() {
        [pong] if pong == "PONG" => Ok(()),
        _ => Err(no_protocol(cluster, whom)),
    }
}

/// Sends the coordinator a command that changes the cluster.
async fn tell(cluster: &Cluster, request: Request) -> Result<String, Error> {
    let timeouts = Timeouts::until(cluster.deadline());
    let answered = exchange(cluster, Whom::Coordinator, &request, one_line, timeouts).await;
    let lines = answered.map_err(|failure| match failure {
        Failure::NotSent(_) | Failure::NotAdmitted(_) => not_reached(cluster, Whom::Coordinator, &failure),
        Failure::NoAnswer(reason) => {
            let reason = format!(
                "{}: {reason}; it may have taken effect; it is safe to repeat",
                name(cluster, Whom::Coordinator)
            );
            Error::Unknown { reason }
        }
    })?;
    match unless_error(cluster, Whom::Coordinator, lines)?.as_slice() {
        [done] if done.split(' ').next() == Some("OK") => Ok(done.clone()),
        _ => {
            let whom = name(cluster, Whom::Coordinator);
            let reason = format!("{whom}: {NotAnAnswer}; the command may have taken effect; it is safe to repeat");
            Err(Error::Unknown { reason })
        }
    }
}

/// Asks a question that changes nothing, and returns the lines of the answer; `has_more` judges by the first line
/// whether more follow.
async fn ask(
    cluster: &Cluster,
    whom: Whom<'_>,
    request: Request,
    has_more: impl Fn(&str) -> bool,
) -> Result<Vec<String>, Error> {
    ask_within(cluster, whom, request, has_more, Timeouts::until(cluster.deadline())).await
}

async fn ask_within(
    cluster: &Cluster,
    whom: Whom<'_>,
    request: Request,
    has_more: impl Fn(&str) -> bool,
    timeouts: Timeouts,
) -> Result<Vec<String>, Error> {
    let lines = exchange(cluster, whom, &request, has_more, timeouts).await;
    unless_error(cluster, whom, lines.map_err(|failure| not_reached(cluster, whom, &failure))?)
}

async fn exchange(
    cluster: &Cluster,
    whom: Whom<'_>,
    request: &Request,
    has_more: impl Fn(&str) -> bool,
    timeouts: Timeouts,
) -> Result<Vec<String>, Failure> {
    let addr = cluster.addr_of(whom);
    let mut connection = cluster.pool().connection(addr, LevelRequirement::Nothing, timeouts).await?;
    let lines = match connection.send(&request.bytes, timeouts).await {
        Ok(()) => connection.lines(has_more, timeouts).await,
        Err(failure) => Err(failure),
    };
    if lines.is_ok() {
        cluster.pool().put_back(addr, connection);
    } else {
        cluster.pool().forget(addr);
    }
    lines
}

fn one_line(_first: &str) -> bool {
    false
}

fn unless_error(cluster: &Cluster, whom: Whom<'_>, lines: Vec<String>) -> Result<Vec<String>, Error> {
    match lines.first().and_then(|first| error_of(first)) {
        Some(reason) => {
            let is_unknown = reason == ErrorReply::UnknownCommand.to_string();
            let why = match whom {
                Whom::Node(node) if is_unknown && node == cluster.addr_of(Whom::Coordinator) => {
                    ": that is the coordinator, name a node"
                }
                Whom::Node(_) if is_unknown => ": it is no node of this version",
                _ => "",
            };
            Err(Error::Refused { by: Some(cluster.addr_of(whom).clone()), reason: format!("{reason}{why}") })
        }
        None => Ok(lines),
    }
}

/// The text of an error answer, in either encoding.
fn error_of(line: &str) -> Option<&str> {
    line.strip_prefix("ERROR ").or_else(|| line.strip_prefix("-ERR ")).or_else(|| line.strip_prefix('-'))
}

fn not_reached(cluster: &Cluster, whom: Whom<'_>, failure: &Failure) -> Error {
    Error::NotReached { whom: name(cluster, whom), reason: failure.to_string() }
}

fn name(cluster: &Cluster, whom: Whom<'_>) -> String {
    let addr = cluster.addr_of(whom);
    match whom {
        Whom::Coordinator => format!("the coordinator at {addr}"),
        Whom::Node(_) => format!("node {addr}"),
    }
}

fn no_protocol(cluster: &Cluster, whom: Whom<'_>) -> Error {
    not_reached(cluster, whom, &Failure::NoAnswer(NotAnAnswer.to_string()))
}
