//! Standard base64 with padding (RFC 4648, section 4), as Go writes and reads `[]byte`.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            if at <= chunk.len() {
                let digit = (group >> (18 - 6 * at)) & 63;
                out.push(char::from(ALPHABET[digit as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

pub(crate) fn is_valid(text: &str) -> bool {
    let bytes: Vec<u8> = text
        .bytes()
        .filter(|byte| !b"\r\n".contains(byte))
        .collect();
    let padding = bytes.iter().rev().take_while(|&&byte| byte == b'=').count();
    bytes.len().is_multiple_of(4)
        && padding <= 2
        && bytes[..bytes.len() - padding]
            .iter()
            .all(|byte| ALPHABET.contains(byte))
}

pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    if !is_valid(text) {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut group, mut bits) = (0_u32, 0);
    for byte in text.bytes() {
        let Some(digit) = ALPHABET.iter().position(|one| *one == byte) else {
            continue;
        };
        group = group << 6 | u32::try_from(digit).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(group >> bits & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_to_four() {
        for (bytes, text) in [("", ""), ("a", "YQ=="), ("hi", "aGk="), ("hi!", "aGkh")] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert!(is_valid(text));
            assert_eq!(decode(text), Some(bytes.as_bytes().to_vec()));
        }
        assert!(!is_valid("Y") && !is_valid("Y===") && !is_valid("a.=="));
    }
}
