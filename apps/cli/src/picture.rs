//! An image in a terminal.

use std::io::IsTerminal as _;

use qing::data::Pixels;

/// Dark to bright.
const RAMP: &[u8] = b" .:-=+*#%@";
/// Widest picture, in characters.
const WIDTH: usize = 32;

/// The image as text: coloured half blocks on a terminal, characters of growing darkness elsewhere.
pub(crate) fn render(image: &Pixels) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let width = image.width.min(WIDTH);
    let height = (image.height * width / image.width.max(1)).div_ceil(2).max(1);
    let image = image.clone().with_channels(3).resize(width, 2 * height);
    let at = |x: usize, y: usize| -> [u8; 3] {
        let i = (y * width + x) * 3;
        [image.data[i], image.data[i + 1], image.data[i + 2]]
    };
    let mut out = String::new();
    for y in 0..height {
        let mut line = String::new();
        for x in 0..width {
            let (upper, lower) = (at(x, 2 * y), at(x, 2 * y + 1));
            if colour {
                let [[a, b, c], [d, e, f]] = [upper, lower];
                line += &format!("\x1b[38;2;{a};{b};{c}m\x1b[48;2;{d};{e};{f}m▀");
            } else {
                let sum: usize = upper.iter().chain(&lower).map(|v| usize::from(*v)).sum();
                line.push(char::from(RAMP[sum / 6 * (RAMP.len() - 1) / 255]));
            }
        }
        out += if colour { &line } else { line.trim_end() };
        out += if colour { "\x1b[0m\n" } else { "\n" };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bright_is_dense() {
        let image = Pixels::new(2, 2, 1, vec![0, 255, 0, 255]).unwrap();
        assert_eq!(render(&image), " @\n");
    }
}
