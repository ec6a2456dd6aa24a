//! Whatever a peer sends as a message: an error or a value, never a panic; and a value survives being said again.

#![no_main]

use std::{fmt::Display, str::FromStr};

use capuchin::{
    proto::{
        Answer, DeviceId, FromBorrower, FromLender, LenderName, Machine, Request, Target, TcpConnected, UserName,
        Verdict,
        message::{self, LENGTH_BYTES, MESSAGE_BYTES_MAX},
    },
    trust::request::parse_request,
};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use minicbor::{Decode, Encode};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Request(&'a [u8]),
    TcpConnected(&'a [u8]),
    Verdict(&'a [u8]),
    Machine(&'a [u8]),
    FromBorrower(&'a [u8]),
    FromLender(&'a [u8]),
    Length([u8; LENGTH_BYTES]),
    /// A request for a certificate, in DER.
    CertificateRequest(&'a [u8]),
    Names(&'a str),
}

fn survives<M>(bytes: &[u8])
where
    M: for<'b> Decode<'b, ()> + Encode<()> + PartialEq,
{
    if let Ok(first) = message::decode::<M>("message", bytes) {
        let again = message::decode::<M>("message", &message::encode(&first));
        assert!(again.is_ok_and(|again| again == first));
    }
}

fn reads_back<N: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(name) = text.parse::<N>() {
        assert_eq!(name.to_string(), text);
    }
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Request(bytes) => {
        if let Ok(Ok(request)) = Request::decode(bytes) {
            let prefixed = message::encode_prefixed(&request);
            let (prefix, body) = prefixed.split_first_chunk().expect("a length comes first");
            assert_eq!(message::decode_length("request", *prefix), Ok(body.len()));
            assert_eq!(Request::decode(body), Ok(Ok(request)));
        }
    }
    Input::TcpConnected(bytes) => survives::<Answer<TcpConnected>>(bytes),
    Input::Verdict(bytes) => survives::<Answer<Verdict>>(bytes),
    Input::Machine(bytes) => survives::<Answer<Machine>>(bytes),
    Input::FromBorrower(bytes) => survives::<FromBorrower>(bytes),
    Input::FromLender(bytes) => survives::<FromLender>(bytes),
    Input::Length(prefix) => {
        assert!(
            message::decode_length("message", prefix).is_ok_and(|length| length <= MESSAGE_BYTES_MAX)
                == (u32::from_be_bytes(prefix) as usize <= MESSAGE_BYTES_MAX)
        );
    }
    Input::CertificateRequest(bytes) => drop(parse_request(bytes)),
    Input::Names(text) => {
        reads_back::<UserName>(text);
        reads_back::<LenderName>(text);
        reads_back::<DeviceId>(text);
        let _ = text.parse::<Target>();
    }
});
