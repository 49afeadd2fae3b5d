//! Common parts of our SQL functions: arguments, nulls, constants and documentation.
//!
//! A function is data: its name, its argument types, and a closure over arrays. All functions are
//! pure. So DataFusion may compute them once for a constant, and a selection may depend on them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, DocSection, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

use super::functions_content::{ContentFunctions, content_functions};
use super::functions_distance::distance_functions;
use super::functions_identity::identity_functions;

/// Returns all functions that Diptych adds to SQL, with their documentation.
pub fn functions(content: &ContentFunctions) -> Vec<ScalarUDF> {
    let all = content_functions(content)
        .into_iter()
        .chain(identity_functions())
        .chain(distance_functions());
    all.map(ScalarUDF::from).collect()
}

/// Section of the documentation.
pub(super) const SECTION: DocSection = DocSection {
    include: true,
    label: "Diptych Functions",
    description: Some("Functions of images, captions and identities."),
};

/// Returns the types that the arguments are cast to. The error describes the expected arguments.
pub(super) type Coerce = fn(&[DataType]) -> Result<Vec<DataType>, String>;
/// Computes an array from the arguments and the number of rows. The error says what is wrong.
pub(super) type Evaluate = dyn Fn(&[Argument], usize) -> Result<ArrayRef, String> + Send + Sync;

/// An SQL function.
pub(super) struct Function {
    name: &'static str,
    signature: Signature,
    returns: DataType,
    coerce: Coerce,
    evaluate: Box<Evaluate>,
    documentation: Documentation,
}

impl Function {
    pub(super) fn new(
        name: &'static str,
        returns: DataType,
        coerce: Coerce,
        documentation: Documentation,
        evaluate: impl Fn(&[Argument], usize) -> Result<ArrayRef, String> + Send + Sync + 'static,
    ) -> Self {
        let signature = Signature::user_defined(Volatility::Immutable);
        Self { name, signature, returns, coerce, evaluate: Box::new(evaluate), documentation }
    }
}

/// An argument: an array, or a constant as an array of one row.
pub(super) struct Argument {
    array: ArrayRef,
    constant: bool,
}

impl Argument {
    fn new(value: ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Array(array) => Self { array, constant: false },
            ColumnarValue::Scalar(scalar) => {
                Self { array: scalar.to_array_of_size(1)?, constant: true }
            }
        })
    }

    pub(super) fn array(&self) -> &ArrayRef {
        &self.array
    }

    /// Returns the index of a row's value in the array.
    pub(super) fn index(&self, row: usize) -> usize {
        if self.constant { 0 } else { row }
    }

    /// Returns the value of an argument cast to `LargeUtf8`.
    pub(super) fn text(&self, row: usize) -> Option<&str> {
        let (texts, index) = (self.array.as_string::<i64>(), self.index(row));
        texts.is_valid(index).then(|| texts.value(index))
    }

    /// Returns the value of an argument cast to `LargeBinary` or `LargeUtf8`.
    pub(super) fn bytes(&self, row: usize) -> Option<&[u8]> {
        if self.array.data_type() == &DataType::LargeUtf8 {
            return self.text(row).map(str::as_bytes);
        }
        let (values, index) = (self.array.as_binary::<i64>(), self.index(row));
        values.is_valid(index).then(|| values.value(index))
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        (self.coerce)(types)
            .map_err(|needs| DataFusionError::Plan(format!("{} needs {needs}", self.name)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arguments = args.args.into_iter().map(Argument::new).collect::<Result<Vec<_>>>()?;
        let constant = arguments.iter().all(|argument| argument.constant);
        let rows = if constant { 1 } else { args.number_rows };
        let result = (self.evaluate)(&arguments, rows)
            .map_err(|message| DataFusionError::Execution(format!("{}: {message}", self.name)))?;
        Ok(if constant {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)
        } else {
            ColumnarValue::Array(result)
        })
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

// Within a session, a name identifies a function.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

pub(super) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        other => matches!(
            other,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null
        ),
    }
}

pub(super) fn is_binary(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_)
            | DataType::Null
    )
}

/// Formats types for messages: "Utf8 and Int64".
pub(super) fn type_names(types: &[DataType]) -> String {
    match types {
        [] => "nothing".into(),
        types => types.iter().map(DataType::to_string).collect::<Vec<_>>().join(" and "),
    }
}

/// Makes an array from the results of a closure for each row.
pub(super) fn each_row<T, A: FromIterator<Option<T>> + Array + 'static>(
    rows: usize,
    value: impl FnMut(usize) -> Option<T>,
) -> ArrayRef {
    Arc::new((0..rows).map(value).collect::<A>())
}
