//! A content as it is stored: behind one byte that says how. Compressed (DEFLATE, RFC 1951) if a sample says that it pays, before
//! encryption. Each content is compressed alone, so that the length of one tells nothing of another's.
//!
//! The compressor is Rust, like all that sees bodies: its memory is zeroed by the node's allocator (docs/security.md).

use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec_with_limit;

const PLAIN: u8 = 1;
const DEFLATE: u8 = 2;
/// More is little smaller and much slower.
const LEVEL: u8 = 4;
/// A sample: from the beginning, the middle and the end.
const SAMPLE: usize = 16 << 10;
/// It pays if the sample shrinks to so many percent.
const PAYS: usize = 88;

/// Depends on the content alone, so that equal contents are stored once.
pub fn encode(content: &[u8]) -> Vec<u8> {
    if pays(content) {
        let compressed = compress_to_vec(content, LEVEL);
        if compressed.len() < content.len() {
            return tagged(DEFLATE, &compressed);
        }
    }
    tagged(PLAIN, content)
}

fn tagged(coding: u8, bytes: &[u8]) -> Vec<u8> {
    let mut coded = Vec::with_capacity(1 + bytes.len());
    coded.push(coding);
    coded.extend_from_slice(bytes);
    coded
}

fn pays(content: &[u8]) -> bool {
    let (middle, last) = (content.len() / 2, content.len().saturating_sub(SAMPLE));
    let starts = [0, middle, last];
    let samples = starts.iter().filter_map(|&start| content.get(start..content.len().min(start + SAMPLE)));
    let (mut before, mut after) = (0, 0);
    for sample in samples {
        before += sample.len();
        after += compress_to_vec(sample, LEVEL).len();
    }
    after * 100 <= before * PAYS
}

/// The content, if the coded bytes are one of just this length. Uses no more memory than that.
pub fn decode(coded: &[u8], length: usize) -> Option<Vec<u8>> {
    let (&coding, bytes) = coded.split_first()?;
    let content = match coding {
        PLAIN if bytes.len() == length => bytes.to_vec(),
        DEFLATE => decompress_to_vec_with_limit(bytes, length).ok()?,
        _ => return None,
    };
    (content.len() == length).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..length).map(next).collect()
    }

    #[test]
    fn what_shrinks_is_compressed_and_comes_back_and_noise_is_left_alone() {
        let text = "a line that is much like the others\r\n".repeat(5_000).into_bytes();
        let coded = encode(&text);
        assert!(coded.len() < text.len() / 10);
        assert_eq!(decode(&coded, text.len()).as_deref(), Some(&text[..]));
        let noise = noise(200_000);
        let coded = encode(&noise);
        assert_eq!(coded.len(), noise.len() + 1);
        assert_eq!(decode(&coded, noise.len()).as_deref(), Some(&noise[..]));
        assert_eq!(decode(&encode(b""), 0).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn a_content_that_unpacks_to_more_or_less_than_it_should_is_refused() {
        let bomb = encode(&vec![0; 10 << 20]);
        assert!(bomb.len() < 100_000);
        for wrong in [0, 1_000, (10 << 20) - 1, (10 << 20) + 1] {
            assert_eq!(decode(&bomb, wrong), None);
        }
        assert_eq!(decode(&[], 0), None);
        assert_eq!(decode(&[9, 1], 1), None);
        assert_eq!(decode(&bomb[..bomb.len() / 2], 10 << 20), None);
    }
}
