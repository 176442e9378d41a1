//! Whether a node has a name, and what remains of it when the last one is gone by a change of this session.

/// From its first name to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Life {
    /// It has a name, as far as is known here.
    #[default]
    Named,
    /// The last name is gone, and the server keeps the content for this session, where the file is open or about to be.
    Orphaned,
    /// The last name is gone, and the server lets the node go.
    Gone,
}

impl Life {
    /// The last name is gone; `keep`: this session has asked the server to keep the content.
    pub(super) fn lose_last_name(&mut self, keep: bool) {
        *self = if keep { Life::Orphaned } else { Life::Gone };
    }

    /// As [`Life::lose_last_name`], found out late: another mount took the name, or the last handle went.
    pub(super) fn note_nameless(&mut self) {
        if *self == Life::Named {
            *self = Life::Gone;
        }
    }

    /// It has a name (again).
    pub(super) fn regain_name(&mut self) {
        *self = Life::Named;
    }

    /// The content need not be kept any more. Whether it was.
    pub(super) fn let_go(&mut self) -> bool {
        let kept = *self == Life::Orphaned;
        if kept {
            *self = Life::Gone;
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_kept_is_let_go_and_only_once() {
        let mut life = Life::default();
        assert!(!life.let_go());
        assert_eq!(life, Life::Named);
        life.lose_last_name(true);
        life.note_nameless();
        assert_eq!(life, Life::Orphaned);
        assert!(life.let_go() && !life.let_go());
        assert_eq!(life, Life::Gone);
        life.regain_name();
        life.note_nameless();
        assert_eq!(life, Life::Gone);
    }
}
