//! Whatever a borrower asks and a resolver answers: never a panic; what is passed on is what was judged, and goes back as it
//! was asked.

#![no_main]

use capuchin::{
    policy::{Host, HostName},
    proto::dns::{ANSWER_BYTES_MAX, HEADER_BYTES, QUERY_BYTES_MAX, Query, Question, Rcode, Reply, ask},
};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Query(&'a [u8]),
    /// An answer to `name`, whose number and question are right, so that its records are read.
    Records {
        name: &'a str,
        kind: u16,
        count: u16,
        records: &'a [u8],
    },
    Reply(&'a [u8]),
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Query(bytes) => match Query::decode(bytes) {
        Err(unserved) => assert_eq!(unserved.into_answer().len(), HEADER_BYTES),
        Ok(query) => {
            let refused = Reply::decode(query.fail(Rcode::Refused), query.id(), query.question()).expect("an answer");
            assert!(refused.is(Rcode::Refused));
            let judged = Host::parse(&query.question().name).map(HostName::try_from);
            let Ok(Ok(name)) = judged else { return };
            assert_eq!(
                name.as_str(),
                query.question().name,
                "the text of a name is the one that rules are compared with"
            );
            let forwarded = query.forward(7, name.as_str()).expect("a host name can be asked for");
            assert!(forwarded.len() <= QUERY_BYTES_MAX);
            assert_eq!(Query::decode(&forwarded).expect("a query").question(), query.question());
        }
    },
    Input::Records { name, kind, count, records } => {
        let question = Question { name: name.to_ascii_lowercase(), kind };
        let Some(mut bytes) = ask(1, &question) else { return };
        bytes[2] |= 0x80;
        bytes[6..8].copy_from_slice(&count.to_be_bytes());
        bytes.extend_from_slice(records);
        bytes.truncate(ANSWER_BYTES_MAX);
        let reply = Reply::decode(bytes.clone(), 1, &question).expect("an answer to the question");
        assert!(reply.addresses.len() * 14 <= records.len() && reply.aliases.len() <= 16);
        assert_eq!(reply.into_bytes(), bytes);
    }
    Input::Reply(bytes) => {
        let _ = Reply::decode(bytes.to_vec(), 0, &Question { name: "a".to_owned(), kind: 1 });
    }
});
