//! The crate `fred`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use fred::prelude::*;
use fred::types::scan::Scanner as _;
use fred::types::{RespVersion, Value};

use crate::Told;

async fn open(address: &str, version: RespVersion) -> Result<Client, Error> {
    let mut config = Config::from_url(&format!("redis://{address}"))?;
    config.version = version;
    let client = Builder::from_config(config)
        .with_connection_config(|connection| {
            connection.connection_timeout = Duration::from_secs(2);
            // A failed call must not be retried behind our back: an INCR would count twice.
            connection.max_command_attempts = 1;
        })
        .with_performance_config(|performance| performance.default_command_timeout = Duration::from_secs(20))
        .build()?;
    client.init().await?;
    Ok(client)
}

/// Makes every ordinary call at one node after the other, in RESP2 and in RESP3.
pub async fn calls(addresses: &[&str]) -> anyhow::Result<String> {
    for version in [RespVersion::RESP2, RespVersion::RESP3] {
        for address in addresses {
            let client = open(address, version.clone()).await?;
            on(&client).await.with_context(|| format!("{version:?} at {address}"))?;
            client.quit().await?;
        }
    }
    Ok("all calls are answered as Redis answers them".to_owned())
}

async fn on(client: &Client) -> anyhow::Result<()> {
    let key = |name: &str| format!("fred:{name}");
    let _: () = client.set(key("text"), "value", None, None, false).await?;
    ensure!(client.get::<String, _>(key("text")).await? == "value");
    ensure!(client.get::<Option<String>, _>(key("absent")).await?.is_none());
    let set: Value = client.set(key("text"), "other", None, Some(SetOptions::NX), false).await?;
    ensure!(set.is_null(), "the key is there");
    let _: () = client.set(key("short"), "lived", Some(Expiration::EX(100)), None, false).await?;
    ensure!((99..=100).contains(&client.ttl::<i64, _>(key("short")).await?));
    ensure!(client.persist::<i64, _>(key("short")).await? == 1);
    ensure!(client.expire::<i64, _>(key("short"), 50, None).await? == 1);
    let _: i64 = client.del(key("number")).await?;
    ensure!(client.incr_by::<i64, _>(key("number"), 5).await? == 5);
    ensure!(client.decr::<i64, _>(key("number")).await? == 4);
    ensure!(client.append::<i64, _, _>(key("number"), "2").await? == 2);
    ensure!(client.getset::<i64, _, _>(key("number"), 7).await? == 42);
    ensure!(client.incr::<i64, _>(key("text")).await.is_err(), "a text is no number");
    let _: () = client.mset(vec![(key("a"), "1"), (key("b"), "2")]).await?;
    let many: Vec<Option<String>> = client.mget(vec![key("a"), key("absent"), key("b")]).await?;
    ensure!(many == [Some("1".to_owned()), None, Some("2".to_owned())]);
    let pipeline = client.pipeline();
    for i in 0..500 {
        let _: () = pipeline.set(key(&format!("pipe:{i}")), i, None, None, false).await?;
    }
    for i in 0..500 {
        let _: () = pipeline.get(key(&format!("pipe:{i}"))).await?;
    }
    let answers: Vec<Value> = pipeline.all().await?;
    let numbers: Vec<i64> = answers.iter().skip(500).filter_map(Value::as_i64).collect();
    ensure!(numbers == (0..500).collect::<Vec<_>>());
    let mut found = scan(client, &key("pipe:*")).await?;
    found.sort();
    found.dedup();
    ensure!(found.len() == 500, "a scan has found {} of 500 keys", found.len());
    ensure!(client.del::<i64, _>(found).await? == 500);
    ensure!(client.ping::<String>(None).await? == "PONG");
    let info: String = client.info(None).await?;
    ensure!(info.contains("role:master"));
    Ok(())
}

async fn scan(client: &Client, pattern: &str) -> anyhow::Result<Vec<String>> {
    let mut pages = client.scan(pattern, Some(100), None);
    let mut found = Vec::new();
    while let Some(page) = next_page(&mut pages).await {
        let mut page = page?;
        found.extend(page.take_results().unwrap_or_default().into_iter().filter_map(Key::into_string));
        page.next();
    }
    Ok(found)
}

/// The next page of a scan.
async fn next_page<S: futures::Stream + Unpin>(pages: &mut S) -> Option<S::Item> {
    std::future::poll_fn(|context| std::pin::Pin::new(&mut *pages).poll_next(context)).await
}

/// Writes for this long, starting with the last node, which is the one that is killed.
pub async fn kill(addresses: &[&str], time: Duration) -> anyhow::Result<String> {
    let mut told = Told::default();
    let mut nodes = addresses.iter().rev().cycle();
    let start = Instant::now();
    let mut client = None;
    let mut next = 0;
    while start.elapsed() < told.time(time) {
        let Some(open_one) = client.as_ref() else {
            if let Some(address) = nodes.next() {
                client = open(address, RespVersion::RESP3).await.ok();
            }
            continue;
        };
        let (key, value) = (format!("fred:kill:{next}"), format!("value {next}"));
        next += 1;
        let stored: Result<(), Error> = open_one.set(&key, &value, None, None, false).await;
        let added: Option<Result<i64, Error>> =
            if stored.is_ok() { Some(open_one.incr("fred:kill").await) } else { None };
        if stored.is_ok() {
            told.stored.insert(key, value);
        }
        match added {
            Some(Ok(_)) => told.added += 1,
            _ => {
                told.errors += 1;
                // Its connection may be the one that broke.
                let _ = open_one.quit().await;
                client = None;
            }
        }
    }
    let client = open(addresses.first().context("an address")?, RespVersion::RESP3).await?;
    let mut values = Vec::new();
    for key in told.stored.keys() {
        values.push((key.clone(), client.get::<Option<String>, _>(key).await?));
    }
    told.judge(&values, client.get("fred:kill").await?)
}
