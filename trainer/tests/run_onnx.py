"""Runs an exported ONNX folder with onnxruntime and prints the outputs, for tests/onnx.rs.

Run:  python run_onnx.py FOLDER INPUTS.json   (with onnx and onnxruntime, see trainer/setup/setup.py)

INPUTS.json holds for each run the name of the file and the inputs by name, each with its type, shape
and values. Prints a list with the outputs of each run by name. A file that onnx's checker refuses is
an error, and so is an input or output with an unexpected name.
"""
import json
import pathlib
import sys

import numpy
import onnx
import onnxruntime


def main(folder, inputs):
    folder = pathlib.Path(folder)
    sessions, answers = {}, []
    for path in folder.glob("onnx/*.onnx"):
        onnx.checker.check_model(str(path), full_check=True)
        sessions[path.stem] = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for run in json.load(open(inputs)):
        session = sessions[run["file"]]
        given = {name: numpy.array(one["values"], dtype=one["type"]).reshape(one["shape"]) for name, one in run["inputs"].items()}
        assert sorted(given) == sorted(one.name for one in session.get_inputs()), [one.name for one in session.get_inputs()]
        names = [one.name for one in session.get_outputs()]
        answers.append(dict(zip(names, (one.ravel().tolist() for one in session.run(names, given)))))
    opsets = {session: onnx.load(str(folder / "onnx" / f"{session}.onnx"), load_external_data=False).opset_import[0].version
              for session in sessions}
    assert set(opsets.values()) == {18} and len(opsets) == 3, opsets
    print(json.dumps(answers))


main(*sys.argv[1:])
