//! Commands under a seccomp filter of a test's own, which stands for what a machine does not give.

use std::process::Command;

use crate::machine::Within;

/// Becomes the command in its arguments. `%` is Python that makes `steps`, the filter's instructions.
const FILTERED: &str = r#"
import ctypes, os, platform, struct, sys
%
code = b"".join(struct.pack("HBBI", *step) for step in steps)
buffer = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// `command` beside `within`, under the filter of these `steps`.
pub fn under_filter(within: &Within, steps: &str, command: &Command) -> Command {
    let mut under = within.beside("python3");
    under.args(["-c", &FILTERED.replace('%', steps)]).arg(command.get_program()).args(command.get_args());
    under
}
