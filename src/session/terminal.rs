//! A terminal's modes and size, between this machine's form and the wire's: the opcodes of RFC 4254 §8.

use std::{io, os::fd::AsFd};

use rustix::termios::{
    InputModes, LocalModes, OutputModes, SpecialCodeIndex, Termios, Winsize, tcgetwinsize, tcsetwinsize,
};

use crate::proto::{Mode, TerminalSize};

/// A character that is switched off, in the RFC.
const NO_CHARACTER: u32 = 255;
/// A character that is switched off, in Linux (`_POSIX_VDISABLE`).
const DISABLED: u8 = 0;

const CHARACTERS: [(u8, SpecialCodeIndex); 15] = [
    (1, SpecialCodeIndex::VINTR),
    (2, SpecialCodeIndex::VQUIT),
    (3, SpecialCodeIndex::VERASE),
    (4, SpecialCodeIndex::VKILL),
    (5, SpecialCodeIndex::VEOF),
    (6, SpecialCodeIndex::VEOL),
    (7, SpecialCodeIndex::VEOL2),
    (8, SpecialCodeIndex::VSTART),
    (9, SpecialCodeIndex::VSTOP),
    (10, SpecialCodeIndex::VSUSP),
    (12, SpecialCodeIndex::VREPRINT),
    (13, SpecialCodeIndex::VWERASE),
    (14, SpecialCodeIndex::VLNEXT),
    (16, SpecialCodeIndex::VSWTC),
    (18, SpecialCodeIndex::VDISCARD),
];

const INPUT: [(u8, InputModes); 13] = [
    (30, InputModes::IGNPAR),
    (31, InputModes::PARMRK),
    (32, InputModes::INPCK),
    (33, InputModes::ISTRIP),
    (34, InputModes::INLCR),
    (35, InputModes::IGNCR),
    (36, InputModes::ICRNL),
    (37, InputModes::IUCLC),
    (38, InputModes::IXON),
    (39, InputModes::IXANY),
    (40, InputModes::IXOFF),
    (41, InputModes::IMAXBEL),
    (42, InputModes::IUTF8),
];

const LOCAL: [(u8, LocalModes); 12] = [
    (50, LocalModes::ISIG),
    (51, LocalModes::ICANON),
    (53, LocalModes::ECHO),
    (54, LocalModes::ECHOE),
    (55, LocalModes::ECHOK),
    (56, LocalModes::ECHONL),
    (57, LocalModes::NOFLSH),
    (58, LocalModes::TOSTOP),
    (59, LocalModes::IEXTEN),
    (60, LocalModes::ECHOCTL),
    (61, LocalModes::ECHOKE),
    (62, LocalModes::PENDIN),
];

const OUTPUT: [(u8, OutputModes); 6] = [
    (70, OutputModes::OPOST),
    (71, OutputModes::OLCUC),
    (72, OutputModes::ONLCR),
    (73, OutputModes::OCRNL),
    (74, OutputModes::ONOCR),
    (75, OutputModes::ONLRET),
];

/// The modes of a terminal.
pub fn modes(terminal: &Termios) -> Vec<Mode> {
    let flag = |opcode, set: bool| Mode { opcode, value: set.into() };
    let characters = CHARACTERS.iter().map(|(opcode, index)| {
        let character = terminal.special_codes[*index];
        Mode { opcode: *opcode, value: if character == DISABLED { NO_CHARACTER } else { character.into() } }
    });
    characters
        .chain(INPUT.iter().map(|(opcode, mode)| flag(*opcode, terminal.input_modes.contains(*mode))))
        .chain(LOCAL.iter().map(|(opcode, mode)| flag(*opcode, terminal.local_modes.contains(*mode))))
        .chain(OUTPUT.iter().map(|(opcode, mode)| flag(*opcode, terminal.output_modes.contains(*mode))))
        .collect()
}

/// Sets what `modes` say; what they do not mention, and what is not known here, stays as it is.
pub fn apply(terminal: &mut Termios, modes: &[Mode]) {
    for Mode { opcode, value } in modes {
        let set = *value != 0;
        if let Some((_, index)) = CHARACTERS.iter().find(|(known, _)| known == opcode) {
            let character = u8::try_from(*value).unwrap_or(DISABLED);
            terminal.special_codes[*index] = if *value == NO_CHARACTER { DISABLED } else { character };
        } else if let Some((_, mode)) = INPUT.iter().find(|(known, _)| known == opcode) {
            terminal.input_modes.set(*mode, set);
        } else if let Some((_, mode)) = LOCAL.iter().find(|(known, _)| known == opcode) {
            terminal.local_modes.set(*mode, set);
        } else if let Some((_, mode)) = OUTPUT.iter().find(|(known, _)| known == opcode) {
            terminal.output_modes.set(*mode, set);
        }
    }
}

/// How large a terminal is.
///
/// # Errors
/// If it is none.
pub fn size(terminal: impl AsFd) -> io::Result<TerminalSize> {
    let size = tcgetwinsize(terminal)?;
    Ok(TerminalSize { columns: size.ws_col, rows: size.ws_row, width: size.ws_xpixel, height: size.ws_ypixel })
}

/// Makes a terminal this large, and tells the programs in its foreground.
///
/// # Errors
/// If it is none.
pub fn resize(terminal: impl AsFd, size: TerminalSize) -> io::Result<()> {
    let TerminalSize { columns, rows, width, height } = size;
    Ok(tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: width, ws_ypixel: height })?)
}

#[cfg(test)]
mod tests {
    use rustix::{
        pty::{OpenptFlags, openpt},
        termios::tcgetattr,
    };

    use super::*;

    #[test]
    fn modes_and_size_go_over_the_wire_and_come_out_the_same() {
        let pair = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let mut there = tcgetattr(&pair).unwrap();
        let mut here = there.clone();
        here.special_codes[SpecialCodeIndex::VINTR] = 7;
        here.special_codes[SpecialCodeIndex::VSUSP] = DISABLED;
        here.input_modes.toggle(InputModes::IXON | InputModes::IUTF8);
        here.local_modes.toggle(LocalModes::ECHO | LocalModes::ICANON);
        here.output_modes.toggle(OutputModes::ONLCR);
        let mut wanted = modes(&here);
        wanted.push(Mode { opcode: 128, value: 9600 });
        apply(&mut there, &wanted);
        assert_eq!(modes(&there), modes(&here));
        let large = TerminalSize { columns: 132, rows: 43, width: 1, height: 2 };
        resize(&pair, large).unwrap();
        assert_eq!(size(&pair).unwrap(), large);
        assert!(size(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
