//! The secret that the members of a group share: with it, the peer port is closed to everybody else.
//!
//! The secret itself is never sent. Each call shows a MAC over who calls whom, which serves nobody but that caller
//! towards that node; whoever reads the traffic can repeat it, so the network between members must be private or
//! encrypted underneath ([`crate::Dial`]).

use raftmq_proto::signature::{is_mac, mac};
use std::fmt;
use tonic::Status;
use tonic::metadata::{Binary, MetadataMap, MetadataValue};

/// Metadata key of the MAC.
const PROOF_KEY: &str = "raftmq-proof-bin";

/// What members prove themselves with.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PeerSecret {
    secret: Option<String>,
    required: bool,
}

impl PeerSecret {
    /// A node shows its proof whenever it has a secret, and wants one from its callers when it is `required`; so a
    /// running group can be given a secret first and then told to require it.
    #[must_use]
    pub fn new(secret: Option<String>, required: bool) -> PeerSecret {
        PeerSecret { secret, required }
    }

    /// What a call from one node to another shows.
    pub(crate) fn proof(&self, text: &[u8]) -> Option<MetadataValue<Binary>> {
        self.secret.as_ref().map(|secret| MetadataValue::from_bytes(&mac(secret, &domain(text))))
    }

    /// Puts the proof on a call.
    pub(crate) fn show(proof: Option<&MetadataValue<Binary>>, metadata: &mut MetadataMap) {
        if let Some(proof) = proof {
            metadata.insert_bin(PROOF_KEY, proof.clone());
        }
    }

    /// Whether a call comes from somebody who has the secret.
    #[allow(clippy::result_large_err, reason = "the type of errors is tonic's")]
    pub(crate) fn check(&self, metadata: &MetadataMap, text: &[u8]) -> Result<(), Status> {
        if !self.required {
            return Ok(());
        }
        let shown = metadata.get_bin(PROOF_KEY).and_then(|value| value.to_bytes().ok());
        match (&self.secret, shown) {
            (Some(secret), Some(shown)) if is_mac(secret, &domain(text), &shown) => Ok(()),
            _ => Err(Status::failed_precondition(
                "this port wants a proof that the caller belongs to the cluster: give every node the same \
                 innerClientAuthenticationCredentials",
            )),
        }
    }
}

/// Apart from whatever else is proven with the same secret.
fn domain(text: &[u8]) -> Vec<u8> {
    [b"raftmq.raft.v1\0", text].concat()
}

impl fmt::Debug for PeerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.secret.is_some();
        f.debug_struct("PeerSecret").field("set", &set).field("required", &self.required).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(from: &PeerSecret, to: &PeerSecret, said: &[u8], heard: &[u8]) -> bool {
        let mut metadata = MetadataMap::new();
        PeerSecret::show(from.proof(said).as_ref(), &mut metadata);
        to.check(&metadata, heard).is_ok()
    }

    #[test]
    fn who_is_let_in() {
        let secret = |text: &str, required| PeerSecret::new(Some(text.to_owned()), required);
        let (open, none) = (PeerSecret::default(), PeerSecret::new(None, true));
        assert!(call(&open, &open, b"a", b"a"));
        assert!(call(&secret("s", true), &open, b"a", b"a"));
        // On the way there: every node has it, not all want it yet.
        assert!(call(&secret("s", false), &secret("s", true), b"a", b"a"));
        assert!(call(&open, &secret("s", false), b"a", b"a"));
        assert!(call(&secret("s", true), &secret("s", true), b"a", b"a"));
        assert!(!call(&secret("s", true), &secret("s", true), b"a", b"b"), "another caller's proof");
        assert!(!call(&secret("t", true), &secret("s", true), b"a", b"a"));
        assert!(!call(&open, &secret("s", true), b"a", b"a"));
        assert!(!call(&open, &none, b"a", b"a") && !call(&secret("", true), &none, b"a", b"a"));
        assert!(!format!("{:?}", secret("hush", true)).contains("hush"));
    }
}
