//! Every key and value comes back byte for byte.

use fake_cluster::FakeCluster;

use crate::{all_requests, client};

const KEYS: [&[u8]; 7] = [b"user:1", "ключ".as_bytes(), b"a b", b"", b"a\nb", b"\xff\x00", b"*3"];

const VALUES: [&[u8]; 17] = [
    b"Alice",
    b"two  words ",
    b"{\"age\": 30}",
    b"\"important value\"",
    "значение".as_bytes(),
    b"",
    b" leading",
    b"\tleading",
    b"two\nlines",
    b"ends with CR\r",
    b"\r\n",
    b"\xff\xfe\x00",
    b"v 127.0.0.1:5001",
    b"v 127.0.0.1:5001,127.0.0.1:5002",
    b"NOT_FOUND",
    b"ERROR BUSY",
    b"$-1",
];

#[tokio::test]
async fn every_shape_comes_back_as_it_was() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    for key in KEYS {
        for value in VALUES {
            client.put(key, value).await.unwrap();
            assert_eq!(cluster.primary_of(key).value(key).as_deref(), Some(value), "{key:?} {value:?}");
            assert_eq!(client.get(key).await.unwrap().as_deref(), Some(value), "{key:?} {value:?}");
        }
        let primary = client.nodes_for_key(key).await.unwrap().primary;
        assert_eq!(primary.as_ref(), Some(cluster.primary_of(key).addr()));
        client.delete(key).await.unwrap();
        assert_eq!(client.get(key).await.unwrap(), None, "{key:?}");
    }
}

#[tokio::test]
async fn a_line_carries_what_it_can_and_an_array_the_rest() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    for (key, value) in
        [("a", "plain words"), ("b", ""), ("c", "v h:1"), ("d", "a\nb"), ("e", " v"), ("f", "ends with blank ")]
    {
        client.put(key, value).await.unwrap();
    }
    assert_eq!(
        all_requests(&cluster),
        ["line PUT a", "array PUT b", "array PUT c", "array PUT d", "array PUT e", "line PUT f"]
    );
}

#[tokio::test]
async fn a_value_of_megabytes_comes_back_as_it_was() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    for last in [b'v', b'\n'] {
        let mut value = vec![b'v'; 4 * 1024 * 1024];
        value.push(last);
        client.put("big", &value).await.unwrap();
        assert!(client.get("big").await.unwrap() == Some(value), "it differs");
    }
}
