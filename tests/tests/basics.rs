//! Put, get and delete, through any node.

use e2e::cluster;
use e2e::connection::{Reply, array};

#[test]
fn a_key_is_put_read_replaced_and_deleted() {
    let cluster = cluster::shared();
    let mut node = cluster.connect(0);
    assert_eq!(node.ask("GET basics:user"), "NOT_FOUND");
    assert_eq!(node.ask("PUT basics:user Alice"), "OK");
    assert_eq!(node.ask("GET basics:user"), "VALUE Alice");
    assert_eq!(node.ask("PUT basics:user Bob, a longer name"), "OK");
    assert_eq!(node.ask("GET basics:user"), "VALUE Bob, a longer name");
    assert_eq!(node.ask("DELETE basics:user"), "OK");
    assert_eq!(node.ask("GET basics:user"), "NOT_FOUND");
    assert_eq!(node.ask("DELETE basics:user"), "OK", "deleting what is absent");
    assert_eq!(node.ask("PUT basics:user Carol"), "OK", "putting what was deleted");
    assert_eq!(node.ask("GET basics:user"), "VALUE Carol");
}

#[test]
fn any_node_takes_any_command_for_any_key() {
    let cluster = cluster::shared();
    let mut nodes = [cluster.connect(0), cluster.connect(1), cluster.connect(2)];
    for i in 0..60 {
        let key = format!("any-node:{i}");
        let [put, get, delete] = [i % 3, (i + 1) % 3, (i / 3) % 3];
        assert_eq!(nodes[put].ask(&format!("PUT {key} {i}")), "OK");
        assert_eq!(nodes[get].ask(&format!("GET {key}")), format!("VALUE {i}"));
        assert_eq!(nodes[delete].ask(&format!("DELETE {key}")), "OK");
        assert_eq!(nodes[get].ask(&format!("GET {key}")), "NOT_FOUND");
    }
}

#[test]
fn thousands_of_keys_put_through_one_node_are_read_through_every_node() {
    let cluster = cluster::shared();
    cluster.store(0, "many-keys", 5_000, " and its value");
    for index in 0..3 {
        cluster.has(index, "many-keys", 5_000, " and its value");
    }
}

#[test]
fn a_thousand_requests_in_one_write_are_answered_in_order() {
    let cluster = cluster::shared();
    let mut node = cluster.connect(1);
    // This node leads some of the keys and other nodes lead the rest; the answers keep the order of the requests all
    // the same.
    let requests = (0..500).map(|i| format!("PUT pipelined:{i} {i}\nGET pipelined:{i}\n"));
    node.send(requests.collect::<String>());
    for i in 0..500 {
        assert_eq!(node.line(), "OK", "PUT {i}");
        assert_eq!(node.line(), format!("VALUE {i}"), "GET {i}");
    }
}

#[test]
fn lines_and_arrays_may_take_turns_on_one_connection() {
    let cluster = cluster::shared();
    let mut node = cluster.connect(2);
    let mut requests = Vec::new();
    for i in 0..100 {
        requests.extend(array(&["PUT", &format!("turns:{i}"), &format!("value {i}")]));
        requests.extend(format!("GET turns:{i}\r\n").into_bytes());
        requests.extend(array(&["get", &format!("turns:{i}")]));
    }
    node.send(requests);
    for i in 0..100 {
        assert_eq!(node.reply(), Reply::ok());
        assert_eq!(node.line(), format!("VALUE value {i}"));
        assert_eq!(node.reply(), Reply::bulk(format!("value {i}")));
    }
}

#[test]
fn values_of_every_shape_come_back_byte_for_byte_through_arrays() {
    let cluster = cluster::shared();
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let addresses = format!("v {},{}", cluster.node(0).addr, cluster.node(1).addr);
    let large = b"0123456789abcdef".repeat(64 * 1024);
    let values: [&[u8]; 12] = [
        b"",
        b" ",
        b"  leading and trailing\t",
        b"two\nlines",
        b"\r\n",
        b"\0",
        b"$5\r\nhello\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        &every_byte,
        addresses.as_bytes(),
        "ключ 🦀".as_bytes(),
        &large,
    ];
    for (i, value) in values.into_iter().enumerate() {
        let key = format!("shapes:{i}");
        assert_eq!(cluster.connect(i % 3).call(&[b"PUT", key.as_bytes(), value]), Reply::ok());
        for index in 0..3 {
            let reply = cluster.connect(index).call(&["GET", &key]);
            assert!(reply == Reply::bulk(value), "{:?}...", String::from_utf8_lossy(&value[..value.len().min(40)]));
        }
    }
}

#[test]
fn keys_may_be_any_bytes_in_arrays() {
    let cluster = cluster::shared();
    let keys: [&[u8]; 5] =
        [b"key with blanks", b"key\nwith\r\nlines", b"\0\xff\xfe", "ключ".as_bytes(), b"*3\r\n$3\r\n"];
    for (i, key) in keys.into_iter().enumerate() {
        let value = format!("value {i}");
        assert_eq!(cluster.connect(0).call(&[b"PUT", key, value.as_bytes()]), Reply::ok());
        for index in 0..3 {
            assert_eq!(cluster.connect(index).call(&[b"GET", key]), Reply::bulk(&value), "{key:?}");
        }
        assert_eq!(cluster.connect(1).call(&[b"DELETE", key]), Reply::ok());
        assert_eq!(cluster.connect(2).call(&[b"GET", key]), Reply::Null, "{key:?}");
    }
}

#[test]
fn a_node_counts_its_keys() {
    let cluster = cluster::Setup { nodes: 1, ..cluster::Setup::default() }.start();
    assert_eq!(cluster.keys_on(0), 0);
    cluster.store(0, "counted", 10, "");
    assert_eq!(cluster.keys_on(0), 10);
    let mut node = cluster.connect(0);
    assert_eq!(node.ask("PUT counted:3 again"), "OK");
    assert_eq!(cluster.keys_on(0), 10, "a new value is no new key");
    assert_eq!(node.ask("DELETE counted:3"), "OK");
    assert_eq!(cluster.keys_on(0), 9, "a deleted key does not count");
}
