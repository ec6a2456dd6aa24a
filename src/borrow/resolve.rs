//! Names as the lender's machine knows them: DNS messages as they are, and a look-up of addresses.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};

use super::{BorrowError, Borrower};
use crate::{
    proto::{
        Answer, ErrorKind, ProtocolError, Request, Resolving,
        dns::{self, HEADER_BYTES, QUERY_BYTES_MAX, Question, Rcode, Reply},
    },
    session::Stream,
};

/// The number of a question that is alone on its stream.
const ID: u16 = 1;

impl Borrower {
    /// Asks the lender's resolvers: a DNS query in, its answer out, both whole messages (RFC 1035 §4). `query` has one question
    /// and 12 to 512 bytes; the answer may have 65,535. What the policy refuses is answered as REFUSED, and what no resolver
    /// answers within 5 s as SERVFAIL.
    ///
    /// An address that was answered is judged by the rules for the name when this session connects to it, for its TTL
    /// and 10 minutes at least.
    ///
    /// # Errors
    /// A query of another size; the lender does not know the request; the session is over.
    ///
    /// # Cancellation
    /// Dropping the future makes the lender give up.
    pub async fn resolve(&self, query: &[u8]) -> Result<Vec<u8>, BorrowError> {
        if !(HEADER_BYTES..=QUERY_BYTES_MAX).contains(&query.len()) {
            let limits = format!("a DNS query has {HEADER_BYTES} to {QUERY_BYTES_MAX} bytes, not {}", query.len());
            return Err(BorrowError::usage(limits));
        }
        let stream = self.open(&Request::Resolve)?;
        let mut message = BytesMut::with_capacity(2 + query.len());
        // At most 512.
        message.put_u16(query.len() as u16);
        message.extend_from_slice(query);
        let failed = |error| BorrowError::answer(self.host(), "its resolvers", error);
        stream.write_all_bytes(message.freeze()).await.map_err(failed)?;
        stream.finish();
        match stream.read_message("answer").await.map_err(failed)? {
            Answer::Granted(Resolving {}) => read(&stream).await.map_err(failed),
            Answer::Refused(refusal) => Err(BorrowError::refused(self.host(), "its resolvers", &refusal)),
        }
    }

    /// The addresses of `name`, an ASCII host name, at the lender: IPv4, then IPv6. None: there is no such name, or it has no address.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, _web, _folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    /// let addresses = lab.lookup("localhost").await?;
    /// assert!(addresses.iter().all(|address| address.is_loopback()), "the lender's");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::resolve`], of the kind `policy` where the policy refuses the name, with the notes of
    /// [`Self::check`], and of the kind `target` where the lender's resolvers fail.
    ///
    /// # Cancellation
    /// As [`Self::resolve`].
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, BorrowError> {
        let (mut addresses, others) = tokio::try_join!(self.addresses(name, dns::A), self.addresses(name, dns::AAAA))?;
        addresses.extend(others);
        Ok(addresses)
    }

    async fn addresses(&self, name: &str, kind: u16) -> Result<Vec<IpAddr>, BorrowError> {
        let lower = name.to_ascii_lowercase();
        let question = Question { name: lower.strip_suffix('.').unwrap_or(&lower).to_owned(), kind };
        let no_name = || BorrowError::usage(format!("{name:?} is no host name in ASCII"));
        let query = dns::ask(ID, &question).ok_or_else(no_name)?;
        let answer = self.resolve(&query).await?;
        let stray = || ProtocolError::Unexpected { expected: "an answer to the question", got: "another".to_owned() };
        let reply = Reply::decode(answer, ID, &question).ok_or_else(|| BorrowError::protocol(self.host(), stray()))?;
        if reply.is(Rcode::Refused) {
            // Says by which rule, unless it was a resolver that refused.
            self.check("resolve", &question.name).await?;
        }
        if reply.is_failure() {
            return Err(BorrowError::Refused {
                lender: self.host().to_owned(),
                kind: ErrorKind::Target,
                reason: format!("its resolvers give no answer for {name}"),
                errno: None,
                notes: vec!["does /etc/resolv.conf there name a resolver that works?".to_owned()],
                warnings: Vec::new(),
            });
        }
        Ok(reply.addresses.into_iter().map(|(address, _)| address).collect())
    }
}

/// A DNS message with its length before it.
async fn read(stream: &Stream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_all(&mut length).await?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_all(&mut answer).await?;
    Ok(answer)
}
