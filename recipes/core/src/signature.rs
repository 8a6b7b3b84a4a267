//! How a recipe's inputs and answers look as tensors, for protocols that speak in tensors.

/// What beside its usual inputs a recipe takes, and which form all its answers have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// `[height, width]` of the [`Pixels`](crate::Pixels) that it takes in place of an encoded image, if it does.
    pub pixels: Option<[usize; 2]>,
    /// The form of its answers.
    pub answer: AnswerForm,
}

/// The form that all answers of a recipe have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerForm {
    /// [`Output::ImageClasses`](crate::Output::ImageClasses), always so many.
    Classes(usize),
    /// [`Output::TextLabel`](crate::Output::TextLabel).
    Label,
    /// [`Output::Embedding`](crate::Output::Embedding), always of so many numbers.
    Embedding(usize),
    /// Any [`Output`](crate::Output), best read as JSON.
    #[default]
    Json,
}
