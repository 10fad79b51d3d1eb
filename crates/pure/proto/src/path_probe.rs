//! The questions by which one node finds out how another is reached, and their answers: UDP
//! datagrams of weft's own.
//!
//! A question is as long as the packet that is tried, an answer is short, so that nobody gets
//! more than they sent. Both begin with the same 24 bytes, in network order:
//!
//! | bytes | |
//! |---|---|
//! | 0..4 | `weft` |
//! | 4 | the version, 1 |
//! | 5 | 1: question, 2: question to be answered without a checksum, 3: answer |
//! | 6..8 | 0 |
//! | 8..16 | a number that the answer repeats |
//! | 16..20 | how many bytes the question has |
//! | 20..24 | 0 |

const MAGIC: [u8; 4] = *b"weft";
const VERSION: u8 = 1;
const QUESTION: u8 = 1;
const QUESTION_WITHOUT_CHECKSUM: u8 = 2;
const ANSWER: u8 = 3;

/// Bytes of the shortest question, and of every answer.
pub const SHORTEST: usize = 24;

/// Whether a packet of this size gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the answer repeats.
    pub token: u64,
    /// How many bytes the question has, 24 at least.
    pub length: u32,
    /// Whether the answer is to be sent with the checksum that every UDP datagram has. Without,
    /// it gets through where checksums come out wrong.
    pub checksum: bool,
}

/// A question has come whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The question's.
    pub token: u64,
    /// How many bytes the question had.
    pub length: u32,
}

impl Question {
    /// The datagram.
    pub fn write(self) -> Vec<u8> {
        let kind = match self.checksum {
            true => QUESTION,
            false => QUESTION_WITHOUT_CHECKSUM,
        };
        let mut bytes = head(kind, self.token, self.length);
        let length = usize::try_from(self.length).unwrap_or(SHORTEST);
        bytes.resize(length.max(SHORTEST), 0);
        bytes
    }

    /// Reads a datagram; `None` for what is no question, or only a part of one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, token, length) = parse(bytes)?;
        let checksum = match kind {
            QUESTION => true,
            QUESTION_WITHOUT_CHECKSUM => false,
            _ => return None,
        };
        (usize::try_from(length) == Ok(bytes.len())).then_some(Self {
            token,
            length,
            checksum,
        })
    }

    /// What is answered.
    pub fn answer(self) -> Answer {
        Answer {
            token: self.token,
            length: self.length,
        }
    }
}

impl Answer {
    /// The datagram.
    pub fn write(self) -> Vec<u8> {
        head(ANSWER, self.token, self.length)
    }

    /// Reads a datagram; `None` for what is no answer.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, token, length) = parse(bytes)?;
        (kind == ANSWER && bytes.len() == SHORTEST).then_some(Self { token, length })
    }
}

fn head(kind: u8, token: u64, length: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SHORTEST);
    bytes.extend(MAGIC);
    bytes.extend([VERSION, kind, 0, 0]);
    bytes.extend(token.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

fn parse(bytes: &[u8]) -> Option<(u8, u64, u32)> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let ([version, kind, 0, 0], rest) = rest.split_first_chunk::<4>()? else {
        return None;
    };
    let (token, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let reserved = rest.first_chunk::<4>()?;
    let fits = *magic == MAGIC && *version == VERSION && *reserved == [0; 4];
    fits.then(|| {
        (
            *kind,
            u64::from_be_bytes(*token),
            u32::from_be_bytes(*length),
        )
    })
}

/// For fuzzing: what is read is written as it was, but for what fills it up.
pub fn exercise(data: &[u8]) {
    if let Some(question) = Question::read(data) {
        assert_eq!(question.write().len(), data.len());
        assert_eq!(question.write().get(..SHORTEST), data.get(..SHORTEST));
        assert!(question.answer().write().len() <= data.len());
    }
    if let Some(answer) = Answer::read(data) {
        assert_eq!(answer.write(), data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_as_long_as_it_says_and_an_answer_never_longer() {
        for (length, checksum) in [(24, true), (1472, false), (65_507, true)] {
            let question = Question {
                token: 0x0102_0304_0506_0708,
                length,
                checksum,
            };
            let bytes = question.write();
            assert_eq!(bytes.len(), length as usize);
            assert_eq!(Question::read(&bytes), Some(question));
            let cut = bytes.get(..bytes.len() - 1).unwrap();
            assert_eq!(Question::read(cut), None);
            let answer = question.answer().write();
            assert!(answer.len() <= bytes.len());
            assert_eq!(Answer::read(&answer), Some(question.answer()));
            assert_eq!(
                (Answer::read(&bytes), Question::read(&answer)),
                (None, None)
            );
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        let question = Question {
            token: 7,
            length: 24,
            checksum: true,
        };
        let expected = b"weft\x01\x01\0\0\0\0\0\0\0\0\0\x07\0\0\0\x18\0\0\0\0";
        assert_eq!(question.write(), expected);
    }
}
