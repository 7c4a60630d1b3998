//! Requests above `grpcMaxInboundMessageSize`: the library refuses them before a handler sees them, in words that name
//! no key. gRPC's own code for it is RESOURCE_EXHAUSTED, which is also what clients of RocketMQ's proxy get.

use tonic::body::Body;
use tonic::{Code, Status};

/// Answers of this API carry no other OUT_OF_RANGE: what a handler refuses is a status in the reply's own type.
pub(super) fn name_the_key(answer: http::Response<Body>, bytes_max: usize) -> http::Response<Body> {
    let refused = Status::from_header_map(answer.headers()).filter(|status| status.code() == Code::OutOfRange);
    let Some(refused) = refused else { return answer };
    let why = refused.message();
    Status::resource_exhausted(format!(
        "the request is larger than grpcMaxInboundMessageSize = {bytes_max} bytes allows: send fewer or smaller messages in one call ({why})"
    ))
    .into_http()
}

#[cfg(test)]
mod tests {
    use super::name_the_key;
    use tonic::{Code, Status};

    fn through(status: Status) -> Status {
        Status::from_header_map(name_the_key(status.into_http(), 7).headers()).expect("a status")
    }

    #[test]
    fn only_what_is_too_large_gets_other_words() {
        let told = through(Status::out_of_range("found 9 bytes, the limit is: 7 bytes"));
        assert_eq!(told.code(), Code::ResourceExhausted);
        assert!(told.message().contains("grpcMaxInboundMessageSize = 7"), "{told}");
        assert!(told.message().contains("found 9 bytes"), "{told}");
        assert_eq!(through(Status::unimplemented("no")).code(), Code::Unimplemented);
    }
}
