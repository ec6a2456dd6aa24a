//! The users whom this machine lists: /etc/passwd (passwd(5)).

/// All of it. A machine may have none; its users have no names then.
pub fn passwd() -> Vec<u8> {
    std::fs::read("/etc/passwd").unwrap_or_default()
}

/// Its lines, each as its seven fields: name, password, uid, gid, comment, home and shell. What has others is passed over.
pub fn passwd_lines(passwd: &[u8]) -> impl Iterator<Item = [&[u8]; 7]> {
    let lines = passwd.split(|byte| *byte == b'\n');
    lines.filter_map(|line| line.split(|byte| *byte == b':').collect::<Vec<_>>().try_into().ok())
}
