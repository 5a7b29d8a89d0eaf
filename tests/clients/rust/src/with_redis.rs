//! The crate `redis`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use redis::{Commands as _, Connection, RedisResult};

use crate::Told;

fn open(address: &str) -> RedisResult<Connection> {
    let connection =
        redis::Client::open(format!("redis://{address}/"))?.get_connection_with_timeout(Duration::from_secs(2))?;
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(connection)
}

/// Makes every ordinary call at one node after the other, in RESP2 and in RESP3.
pub fn calls(addresses: &[&str]) -> anyhow::Result<String> {
    for protocol in ["resp2", "resp3"] {
        for address in addresses {
            let client = redis::Client::open(format!("redis://{address}/?protocol={protocol}"))?;
            let mut connection = client.get_connection()?;
            on(&mut connection).with_context(|| format!("{protocol} at {address}"))?;
        }
    }
    Ok("all calls are answered as Redis answers them".to_owned())
}

fn on(connection: &mut Connection) -> anyhow::Result<()> {
    let key = |name: &str| format!("rs:{name}");
    let _: () = connection.set(key("text"), "value")?;
    ensure!(connection.get::<_, String>(key("text"))? == "value");
    ensure!(connection.get::<_, Option<String>>(key("absent"))?.is_none());
    let bytes: Vec<u8> = (0..=255).collect();
    let _: () = connection.set(key("bytes"), &bytes)?;
    ensure!(connection.get::<_, Vec<u8>>(key("bytes"))? == bytes);
    let _: () = connection.set_ex(key("short"), "lived", 100)?;
    ensure!((99..=100).contains(&connection.ttl::<_, i64>(key("short"))?));
    ensure!(connection.persist::<_, bool>(key("short"))?);
    ensure!(connection.expire::<_, bool>(key("short"), 50)?);
    let _: i64 = connection.del(key("number"))?;
    ensure!(connection.incr::<_, _, i64>(key("number"), 5)? == 5);
    ensure!(connection.decr::<_, _, i64>(key("number"), 2)? == 3);
    ensure!(connection.append::<_, _, i64>(key("number"), "0")? == 2);
    ensure!(connection.getset::<_, _, i64>(key("number"), 7)? == 30);
    ensure!(connection.incr::<_, _, i64>(key("text"), 1).is_err(), "a text is no number");
    ensure!(!connection.set_nx::<_, _, bool>(key("text"), "other")?);
    let _: () = connection.mset(&[(key("a"), "1"), (key("b"), "2")])?;
    let many: Vec<Option<String>> = connection.mget(&[key("a"), key("absent"), key("b")])?;
    ensure!(many == [Some("1".to_owned()), None, Some("2".to_owned())]);
    ensure!(connection.exists::<_, bool>(key("a"))?);
    let mut pipeline = redis::pipe();
    for i in 0..500 {
        pipeline.set(key(&format!("pipe:{i}")), i).ignore();
    }
    for i in 0..500 {
        pipeline.get(key(&format!("pipe:{i}")));
    }
    ensure!(pipeline.query::<Vec<i64>>(connection)? == (0..500).collect::<Vec<_>>());
    let mut found: Vec<String> = connection.scan_match::<_, String>(key("pipe:*"))?.collect::<RedisResult<_>>()?;
    found.sort();
    found.dedup();
    ensure!(found.len() == 500, "a scan has found {} of 500 keys", found.len());
    ensure!(connection.del::<_, i64>(&found)? == 500);
    let pong: String = redis::cmd("PING").query(connection)?;
    ensure!(pong == "PONG");
    let info: redis::InfoDict = redis::cmd("INFO").query(connection)?;
    ensure!(info.get::<String>("role").as_deref() == Some("master"));
    let error = redis::cmd("LPUSH").arg(key("list")).arg(1).query::<i64>(connection);
    ensure!(error.is_err_and(|error| error.to_string().contains("unknown command")));
    Ok(())
}

/// Writes for this long, starting with the last node, which is the one that is killed.
pub fn kill(addresses: &[&str], time: Duration) -> anyhow::Result<String> {
    let mut told = Told::default();
    let mut nodes = addresses.iter().rev().cycle();
    let start = Instant::now();
    let mut connection = None;
    let mut next = 0;
    while start.elapsed() < told.time(time) {
        let Some(open_one) = connection.as_mut() else {
            connection = nodes.next().and_then(|address| open(address).ok());
            continue;
        };
        let (key, value) = (format!("rs:kill:{next}"), format!("value {next}"));
        next += 1;
        let stored = open_one.set::<_, _, ()>(&key, &value);
        let added = stored.is_ok().then(|| open_one.incr::<_, _, i64>("rs:kill", 1));
        let is_broken = !redis::ConnectionLike::is_open(open_one);
        if stored.is_ok() {
            told.stored.insert(key, value);
        }
        match added {
            Some(Ok(_)) => told.added += 1,
            _ => told.errors += 1,
        }
        if is_broken {
            connection = None;
        }
    }
    let mut connection = open(addresses.first().context("an address")?)?;
    let keys: Vec<String> = told.stored.keys().cloned().collect();
    let mut values = Vec::new();
    for key in keys {
        let found = connection.get(&key)?;
        values.push((key, found));
    }
    told.judge(&values, connection.get("rs:kill")?)
}
