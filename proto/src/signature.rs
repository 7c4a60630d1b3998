//! Signatures of RocketMQ's clients: who calls, proven with a secret that both sides hold.
//!
//! ```text
//! x-mq-date-time: 20261123T180807Z
//! authorization:  MQv2-HMAC-SHA1 Credential=KEY, SignedHeaders=x-mq-date-time, Signature=HEX(HMAC-SHA1(SECRET, date time))
//! ```
//!
//! The text that is signed is `x-mq-date-time` as it stands: clients write it in their local time, in UTC or with an
//! offset, so nothing can be read from it, and whoever reads the traffic can show the same headers again. TLS keeps them
//! from being read.

use crate::{admin, command};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use std::fmt;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

/// Header with the proof.
pub const AUTHORIZATION: &str = "authorization";
/// Header with the text that is signed.
pub const DATE_TIME: &str = "x-mq-date-time";
/// What the value of [`AUTHORIZATION`] begins with.
const SCHEME: &str = "MQv2-HMAC-SHA1";

/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 20;

/// A name and the secret that proves it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name of a user.
    pub access_key: String,
    /// Never shown or logged.
    pub secret_key: String,
}

/// What a call shows as proof of who makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown<'m> {
    /// The name of the user.
    pub access_key: &'m str,
    signed: &'m [u8],
    signature: [u8; SIGNATURE_BYTES],
}

/// Why a call shows no proof that can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoProof {
    /// The call is not signed.
    #[error("the call is not signed: give the client an access key and a secret key")]
    Unsigned,
    /// A header that is not what it should be.
    #[error("the header authorization is not MQv2-HMAC-SHA1 Credential=…, SignedHeaders=…, Signature=…")]
    Malformed,
    /// What was signed is not there.
    #[error("the header x-mq-date-time, which is signed, is missing")]
    NoDateTime,
}

impl Credentials {
    /// Signs a call made at this time, in ms since the Unix epoch. Fails for a name that a header cannot hold.
    ///
    /// # Errors
    /// The name has characters that a header cannot have, or that separate its parts.
    pub fn sign(&self, metadata: &mut MetadataMap, now_ms: u64) -> Result<(), NoProof> {
        let date_time = date_time(now_ms);
        let signature = hex(&mac(&self.secret_key, date_time.as_bytes()));
        let key = &self.access_key;
        if key.is_empty() || key.contains(['/', ',']) {
            return Err(NoProof::Malformed);
        }
        let value = format!("{SCHEME} Credential={key}, SignedHeaders={DATE_TIME}, Signature={signature}");
        let value: MetadataValue<Ascii> = value.parse().map_err(|_| NoProof::Malformed)?;
        let date_time: MetadataValue<Ascii> = date_time.parse().map_err(|_| NoProof::Malformed)?;
        metadata.append(AUTHORIZATION, value);
        metadata.insert(DATE_TIME, date_time);
        Ok(())
    }
}

impl<'m> Shown<'m> {
    /// What a call shows. Other values of `authorization` beside a signature are passed over.
    ///
    /// # Errors
    /// [`NoProof`].
    pub fn of(metadata: &'m MetadataMap) -> Result<Shown<'m>, NoProof> {
        let mut values = metadata.get_all(AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
        let parts = values.find_map(after_scheme).ok_or(match metadata.contains_key(AUTHORIZATION) {
            true => NoProof::Malformed,
            false => NoProof::Unsigned,
        })?;
        let (mut credential, mut signature) = (None, None);
        for part in parts.split(',') {
            match part.trim().split_once('=') {
                Some(("Credential", value)) => credential = Some(value),
                Some(("Signature", value)) => signature = unhex(value.trim()),
                _ => {}
            }
        }
        // Some clients add a region and the name of the service.
        let access_key = credential.and_then(|credential| credential.split('/').next()).unwrap_or_default().trim();
        if access_key.is_empty() {
            // Clients without credentials sign with an empty name.
            return Err(if credential.is_some() { NoProof::Unsigned } else { NoProof::Malformed });
        }
        let signature = signature.ok_or(NoProof::Malformed)?;
        let signed = metadata.get(DATE_TIME).map(MetadataValue::as_bytes).filter(|text| !text.is_empty());
        Ok(Shown { access_key, signed: signed.ok_or(NoProof::NoDateTime)?, signature })
    }

    /// Whether the call was signed with this secret.
    #[must_use]
    pub fn is_proven(&self, secret_key: &str) -> bool {
        // Compared in a time that does not tell how much of a guess is right.
        keyed(secret_key, self.signed).verify_slice(&self.signature).is_ok()
    }
}

fn after_scheme(value: &str) -> Option<&str> {
    let (scheme, rest) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(rest)
}

fn keyed(secret: &str, text: &[u8]) -> Hmac<Sha1> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(text);
    mac
}

/// HMAC-SHA1.
#[must_use]
pub fn mac(secret: &str, text: &[u8]) -> [u8; SIGNATURE_BYTES] {
    keyed(secret, text).finalize().into_bytes().into()
}

/// Whether `shown` is [`mac`] of the text, in a time that does not tell how much of it is right.
#[must_use]
pub fn is_mac(secret: &str, text: &[u8], shown: &[u8]) -> bool {
    keyed(secret, text).verify_slice(shown).is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// In either case: clients differ.
fn unhex(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * SIGNATURE_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; SIGNATURE_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// `20261123T180807Z`.
fn date_time(ms: u64) -> String {
    let (day, second) = (ms / 86_400_000, ms / 1_000 % 86_400);
    // Whole cycles of 400 years that begin on 1 March.
    let day = day + 719_468;
    let (cycle, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = cycle * 400 + year + carry;
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

impl fmt::Debug for command::User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("User");
        shown.field("name", &self.name).field("admin", &self.admin).field("disabled", &self.disabled);
        shown.field("version", &self.version).finish_non_exhaustive()
    }
}

impl fmt::Debug for command::PutUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PutUser");
        shown.field("name", &self.name).field("admin", &self.admin).field("disabled", &self.disabled);
        shown.field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl fmt::Debug for admin::PutUserRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PutUserRequest");
        shown.field("name", &self.name).field("admin", &self.admin).field("disabled", &self.disabled);
        shown.field("update", &self.update).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(headers: &[(&'static str, &str)]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for (name, value) in headers {
            metadata.append(*name, value.parse().expect("a header value"));
        }
        metadata
    }

    /// Computed with `printf '%s' TEXT | openssl dgst -sha1 -hmac SECRET`, and the second of RFC 2202.
    #[test]
    fn vectors() {
        for (secret, text, expected) in VECTORS {
            assert_eq!(hex(&mac(secret, text.as_bytes())), expected, "{text}");
        }
    }

    const VECTORS: [(&str, &str, &str); 3] = [
        ("Jefe", "what do ya want for nothing?", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        ("12345678", "20261123T180807Z", "9d7828a59f422c87425a270e61edefe520d0ff44"),
        ("s3cr€t", "2026-11-23T19:08:07+01:00", "369a4b20f5a917a0928115cd7e6ebf3cc4c1539d"),
    ];

    #[test]
    fn headers_as_the_clients_write_them() {
        let check = |value: &str, expected: Result<&str, NoProof>| {
            let metadata = metadata(&[(AUTHORIZATION, value), (DATE_TIME, VECTORS[1].1)]);
            let shown = Shown::of(&metadata);
            assert_eq!(shown.as_ref().map(|shown| shown.access_key).map_err(|error| *error), expected, "{value}");
            if let Ok(shown) = shown {
                assert!(shown.is_proven("12345678") && !shown.is_proven("1234567"), "{value}");
            }
        };
        let (lower, upper) = (VECTORS[1].2, VECTORS[1].2.to_uppercase());
        check(&format!("MQv2-HMAC-SHA1 Credential=ak, SignedHeaders=x-mq-date-time, Signature={lower}"), Ok("ak"));
        check(&format!("MQv2-HMAC-SHA1 Credential=ak, SignedHeaders=x-mq-date-time, Signature={upper}"), Ok("ak"));
        check(&format!("MQv2-HMAC-SHA1 Credential=ak//Rocketmq, SignedHeaders=x, Signature={lower}"), Ok("ak"));
        check(&format!("MQv2-HMAC-SHA1 Credential=ak/cn/RocketMQ,SignedHeaders=x,Signature={lower}"), Ok("ak"));
        check(&format!("MQv2-HMAC-SHA1 Credential=, SignedHeaders=x, Signature={lower}"), Err(NoProof::Unsigned));
        check("MQv2-HMAC-SHA1 Credential=ak, SignedHeaders=x, Signature=12", Err(NoProof::Malformed));
        check("MQv2-HMAC-SHA1 Credential=ak, SignedHeaders=x", Err(NoProof::Malformed));
        check("Bearer token", Err(NoProof::Malformed));
        check("", Err(NoProof::Malformed));
        let other = format!("MQv2-HMAC-SHA1 Credential=ak, Signature={lower}");
        let unsigned = |headers| Shown::of(&metadata(headers)).expect_err("no proof");
        assert_eq!(unsigned(&[]), NoProof::Unsigned);
        assert_eq!(unsigned(&[(AUTHORIZATION, other.as_str())]), NoProof::NoDateTime);
    }

    #[test]
    fn what_is_signed_here_is_proven_here() {
        let credentials = Credentials { access_key: "ak".to_owned(), secret_key: "secret".to_owned() };
        let mut headers = metadata(&[(AUTHORIZATION, "Bearer token")]);
        credentials.sign(&mut headers, 1_795_457_287_123).expect("a plain name");
        assert_eq!(headers.get(DATE_TIME).expect("signed").as_bytes(), b"20261123T180807Z");
        let shown = Shown::of(&headers).expect("signed");
        assert!(shown.is_proven("secret") && !shown.is_proven("Secret") && !shown.is_proven(""));
        assert!(Credentials { access_key: "a/b".to_owned(), ..credentials }.sign(&mut headers, 0).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = "hush".to_owned();
        let user = command::User { secret: secret.clone(), ..Default::default() };
        let put = command::PutUser { secret: Some(secret.clone()), ..Default::default() };
        let batch = command::Batch {
            commands: vec![command::Command {
                deadline_ms: 0,
                kind: Some(command::command::Kind::PutUser(put.clone())),
            }],
            ..Default::default()
        };
        let request = admin::PutUserRequest { secret: Some(secret.clone()), ..Default::default() };
        let credentials = Credentials { access_key: String::new(), secret_key: secret };
        let shown = format!("{user:?} {put:?} {batch:?} {request:?} {credentials:?}");
        assert!(!shown.contains("hush"), "{shown}");
    }
}
