//! A way between borrowers and a lender that can be cut.

use std::{
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{Home, Lab, run};

/// Stands between borrowers and the lender, and can be cut: what went through it ends without a word, and nothing new gets
/// through until it is mended.
pub struct Wire {
    pub address: SocketAddr,
    state: Arc<Mutex<WireState>>,
    /// Nobody hears that the other side has ended.
    is_deaf: Arc<AtomicBool>,
}

struct WireState {
    lender: Option<SocketAddr>,
    /// Each with the borrower's side first.
    open: Vec<(TcpStream, TcpStream)>,
}

impl Wire {
    /// One to a lender, and the home of a user who reaches it by nothing else.
    pub fn between(user: &str, lab: &Lab) -> (Self, Home) {
        let (wire, home) = (Self::to(lab.address), lab.join(user));
        run(home.capuchin().args(["hosts", "set", "lab", &wire.address.to_string()]));
        (wire, home)
    }

    /// One to a lender.
    pub fn to(lender: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(WireState { lender: Some(lender), open: Vec::new() }));
        let (shared, is_deaf) = (state.clone(), Arc::new(AtomicBool::new(false)));
        let deaf = is_deaf.clone();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let mut state = shared.lock().unwrap();
                let Some(far) = state.lender.and_then(|lender| TcpStream::connect(lender).ok()) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let deaf = deaf.clone();
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        if !deaf.load(Ordering::Relaxed) {
                            let _ = to.shutdown(Shutdown::Write);
                        }
                    });
                }
                state.open.push((near, far));
            }
        });
        Self { address, state, is_deaf }
    }

    /// Ends everything.
    pub fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.lender = None;
        for socket in state.open.drain(..).flat_map(|(near, far)| [near, far]) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Breaks what is open for the borrowers; the lender hears nothing of it.
    pub fn lose_borrowers(&self) {
        self.is_deaf.store(true, Ordering::Relaxed);
        for (near, _) in &self.state.lock().unwrap().open {
            let _ = near.shutdown(Shutdown::Both);
        }
    }

    /// The lender's side of the one connection there is.
    pub fn to_the_lender(&self) -> TcpStream {
        let state = self.state.lock().unwrap();
        let [(_, far)] = &state.open[..] else { panic!("{} connections", state.open.len()) };
        far.try_clone().unwrap()
    }

    /// Lets borrowers through again, to where the lender is now.
    pub fn mend(&self, lender: SocketAddr) {
        self.state.lock().unwrap().lender = Some(lender);
    }
}
