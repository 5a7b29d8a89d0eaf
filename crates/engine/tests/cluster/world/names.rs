//! Names and texts of a story.

use engine::slot::Written;
use proto::id::NodeAddr;
use proto::peer::ModifyReply;

/// The address of a node.
pub(crate) fn addr_of(name: &str) -> NodeAddr {
    NodeAddr::new("n", u16::from(name.as_bytes()[0] - b'A') + 1).expect("a valid address")
}

/// The name of the node at an address.
pub(crate) fn name_of(addr: &NodeAddr) -> String {
    let letter = b'A' + u8::try_from(addr.port() - 1).expect("a port of the world");
    char::from(letter).to_string()
}

/// What the client is told about a completed write.
pub(super) fn said(written: &Written) -> String {
    let Written::Modified(_, reply) = written else { return "OK".to_owned() };
    match reply.as_reply() {
        ModifyReply::Done => "OK".to_owned(),
        ModifyReply::Nothing => "nothing".to_owned(),
        ModifyReply::Number(number) => number.to_string(),
        ModifyReply::Value(value) => String::from_utf8_lossy(value).into_owned(),
        ModifyReply::Error(mistake) => mistake.to_string(),
    }
}
