//! Pixels that a client normalised itself.

use std::sync::Arc;

use galley_core::{
    AnyRecipe, Input, InputError, LoadOptions, MemoryBudget, Output, Pixels, run_batch,
};
use galley_image::{Bounds, EXAMPLE};

fn lite0() -> AnyRecipe {
    let entry = crate::ENTRIES
        .iter()
        .find(|entry| entry.name == "efficientnet_lite0")
        .unwrap();
    (entry.load)(entry, &LoadOptions::default()).unwrap()
}

#[test]
fn pixels_are_the_image_that_they_were_made_from() {
    let recipe = lite0();
    let Some([side, width]) = recipe.signature().pixels else {
        panic!("an image recipe takes pixels");
    };
    assert_eq!(side, width);
    let bounds = Bounds {
        max_pixels: 1 << 20,
        memory: &MemoryBudget::unlimited(),
        wanted: &|| true,
    };
    let image = galley_image::decode(EXAMPLE, &bounds).unwrap();
    let rgb = crate::spec::LITE0.view.of(&image);
    // Its own scale, as the weights' `config.json` states it.
    let spec_of_lite0 = |byte: u8| (f32::from(byte) - 127.0) / 128.0;
    let plane = |colour: usize| {
        rgb.iter()
            .skip(colour)
            .step_by(3)
            .map(|&b| spec_of_lite0(b))
    };
    let values = (0..3).flat_map(plane).collect();
    let pixels = Input::Pixels(Pixels {
        size: [side; 2],
        values,
    });
    let answers = run_batch(recipe.as_ref(), vec![recipe.example(), pixels]).unwrap();
    let classes = |answer: &Result<Output, InputError>| match answer {
        Ok(Output::ImageClasses(classes)) => classes.clone(),
        other => panic!("{other:?}"),
    };
    let (of_file, of_pixels) = (classes(&answers[0]), classes(&answers[1]));
    for (a, b) in of_file.iter().zip(&of_pixels) {
        assert_eq!(a.class_id, b.class_id);
        assert!((a.score - b.score).abs() < 1e-4, "{a:?} {b:?}");
    }
}

#[test]
fn pixels_of_another_size_or_not_finite_are_refused() {
    let recipe: AnyRecipe = Arc::clone(&lite0());
    let [side, _] = recipe.signature().pixels.unwrap();
    let refuse = |size: [usize; 2], values: Vec<f32>| {
        let input = Input::Pixels(Pixels { size, values });
        recipe.prepare(input).err().unwrap().to_string()
    };
    let short = refuse([side; 2], vec![0.0; 5]);
    assert!(short.contains("got 5 values"), "{short}");
    let wrong = refuse([1, 1], vec![0.0; 3]);
    assert!(wrong.contains("1 x 1"), "{wrong}");
    let mut values = vec![0.0; 3 * side * side];
    values[7] = f32::NAN;
    let infinite = refuse([side; 2], values);
    assert!(infinite.contains("finite"), "{infinite}");
}
