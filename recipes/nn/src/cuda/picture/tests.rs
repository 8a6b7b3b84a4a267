use super::*;
use crate::{cuda::Place, picture::Resize};

fn resize(size: [usize; 2], turn: [bool; 3]) -> Resize {
    const HALVES: &[i32] = &[1 << 21, 1 << 21];
    let taps = vec![(0, HALVES); 40];
    Resize::new(size, turn, [Axis::new(&taps), Axis::new(&taps)]).unwrap()
}

#[test]
fn descriptions_are_as_the_kernel_reads_them() {
    let resizes = [
        resize([5, 4], [false; 3]),
        resize([7, 3], [true, false, true]),
    ];
    let pictures: Vec<Picture<'_>> = resizes
        .iter()
        .map(|resize| Picture { file: &[], resize })
        .collect();
    let mut layout = Layout::default();
    let squares = layout.place(2 * 40 * 40 * 3);
    let decoding = Decoding::new(&pictures, squares, &mut layout).unwrap();
    let [group] = &decoding.groups[..] else {
        panic!("expected one group, got {:?}", decoding.groups)
    };
    let mut bytes = vec![0; decoding.tables.bytes];
    decoding.write(&mut bytes);
    let long = |at: usize| i64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let word = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!([0, 8, 16].map(long), [0, 3, 15]);
    assert_eq!([24, 28, 32, 36, 40, 44].map(word), [0, 120, 2, 2, 5, 4]);
    // The second begins 256 bytes later, at its last line, which becomes its first column.
    assert_eq!([48, 56, 64].map(long), [256 + 2 * 21, -21, 3]);
    assert_eq!([72, 76, 80, 84, 88, 92].map(word), [240, 360, 2, 2, 3, 7]);
    let tables: Vec<i32> = (0..480).map(|i| word(96 + 4 * i)).collect();
    assert_eq!(tables, [vec![0; 40], vec![1 << 21; 80]].concat().repeat(4));
    let launch = group.program.launches().next().unwrap();
    assert_eq!(launch.grid.blocks, [2, 2, 2]);
    assert_eq!(launch.arguments.last(), Some(&Argument::from(40)));
}

#[test]
fn pictures_that_are_resized_in_one_way_share_its_weights() {
    let resizes = [
        resize([5, 4], [false; 3]),
        resize([7, 3], [true, false, true]),
    ];
    let pictures = [0, 1, 0, 1].map(|i: usize| Picture {
        file: &[],
        resize: &resizes[i],
    });
    let mut layout = Layout::default();
    let squares = layout.place(4 * 40 * 40 * 3);
    let decoding = Decoding::new(&pictures, squares, &mut layout).unwrap();
    let mut bytes = vec![0; decoding.tables.bytes];
    decoding.write(&mut bytes);
    let word = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let begins = |picture: usize| [24, 28].map(|at| word(picture * DESCRIPTION + at));
    assert_eq!(
        [0, 1, 2, 3].map(begins),
        [[0, 120], [240, 360], [0, 120], [240, 360]]
    );
    let tables: Vec<i32> = (0..480).map(|i| word(4 * DESCRIPTION + 4 * i)).collect();
    assert_eq!(tables, [vec![0; 40], vec![1 << 21; 80]].concat().repeat(4));
}

#[test]
fn all_lies_in_the_memory_and_apart() {
    let large = resize([8192, 1024], [false; 3]);
    let pictures = vec![
        Picture {
            file: &[],
            resize: &large
        };
        25
    ];
    let mut layout = Layout::default();
    let squares = layout.place(25 * 40 * 40 * 3);
    let before = layout.bytes();
    let decoding = Decoding::new(&pictures, squares, &mut layout).unwrap();
    let ranges: Vec<_> = decoding
        .groups
        .iter()
        .map(|group| group.pictures.clone())
        .collect();
    assert_eq!(ranges, [0..10, 10..20, 20..25]);
    for group in &decoding.groups {
        for pixels in &group.pixels {
            let Place::Pass(start) = pixels.place else {
                panic!("expected a place of the pass, got {pixels:?}")
            };
            assert!(start >= before + decoding.tables.bytes);
            assert!(start + pixels.bytes <= layout.bytes());
        }
        assert!(
            group
                .pixels
                .windows(2)
                .all(|pair| pair[0].distance(pair[1]) >= pair[0].bytes)
        );
    }
}
