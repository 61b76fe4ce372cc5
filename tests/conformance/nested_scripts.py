"""What models of models_nested/ are told to do: lines of Python that run inside of them, by a name for each."""

from __future__ import annotations

ADD = "[ints('A', 1, 2), ints('B', 3, 4)]"
CODES = ("UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED")


def answered(call: str) -> str:
    """Says the one answer of `call`."""
    return f"say(shown({call}.exec()))"


def each(model: str, inputs: str, *, again: bool = False) -> str:
    """Says every answer of a decoupled call."""
    read = "\nfor answer in answers:\n    say(shown(answer))"
    return f"answers = call('{model}', {inputs}, ['OUT']).exec(decoupled=True)" + read * (1 + again)


def sequence(value: int, id: int, flags: int) -> str:
    """One request of a sequence."""
    tensor = f"pb_utils.Tensor('A', np.array([[{value}]], np.int32))"
    return answered(f"call('total', [{tensor}], correlation_id={id}, flags={flags})")


CALLS = {
    "an answer": answered(f"call('add', {ADD})"),
    "both outputs": answered(f"call('add', {ADD}, ['DIFFERENCE', 'SUM'])"),
    "no output names": answered(f"call('add', {ADD}, [])"),
    "an output that is not there": answered(f"call('add', {ADD}, ['NONE'])"),
    "what it is told": f"""
more = dict(request_id='mine', correlation_id=7, flags=3, timeout=5000000)
more['parameters'] = {{'a': 1, 'b': 'x', 'c': True}}
say(shown(call('add', {ADD}, ['TOLD'], **more).exec()))""",
    "a text as correlation id": answered(f"call('add', {ADD}, ['TOLD'], correlation_id='seven')"),
    "what it is told of itself": answered(f"call('add', {ADD}, ['TOLD'])"),
    "version 1": answered(f"call('add', {ADD}, model_version=1)"),
    "a version that is not there": answered(f"call('add', {ADD}, model_version=7)"),
    "a model that is not there": answered("call('nobody')"),
    "a model that is not loaded": answered(f"call('spare', {ADD})"),
    "preferred memory": f"""
memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)
say(shown(call('add', {ADD}, preferred_memory=memory).exec()))""",
    "its trace": answered(f"call('add', {ADD}, trace=request.trace())"),
    "an input is missing": answered("call('add', [ints('A', 1)])"),
    "an input too many": answered(f"call('add', [*{ADD}, ints('C', 1)])"),
    "a wrong datatype": answered("call('add', [ints('A', 1), pb_utils.Tensor('B', np.ones(1, np.float32))])"),
    "a wrong shape": answered("call('add', [ints('A', 1), pb_utils.Tensor('B', np.ones((1, 1), np.int32))])"),
    "shapes that do not fit": answered("call('add', [ints('A', 1, 2), ints('B', 1, 2, 3)])"),
    "the model raises": answered("call('odd', how('raise'))"),
    "without an output": answered("call('odd', how('nothing'))"),
    "strings": answered("call('odd', how('echo'))"),
    "too many rows": answered("call('odd', how('echo', rows=5))"),
    **{f"the code {code}": answered(f"call('odd', how('{code}'))") for code in CODES},
    "the same request again": f"one = call('add', {ADD})\nsay(shown(one.exec()))\nsay(shown(one.exec()))",
    "an input passed on": answered("call('caller2', [pb_utils.get_input_tensor_by_name(request, 'SCRIPT')])"),
    "decoupled": each("repeat", "[ints('IN', 4, 2, 0)]"),
    "decoupled without an answer": each("repeat", "[ints('IN')]"),
    "decoupled, the last answer with the flag": each("repeat", "[ints('IN', 4, -9)]"),
    "decoupled with an error": each("repeat", "[ints('IN', 4, -1, 3)]"),
    "decoupled, asked as if it were not": answered("call('repeat', [ints('IN', 4)], ['OUT'])"),
    "ordinary, asked as if decoupled": each("add", ADD).replace("'OUT'", "'SUM'"),
    "decoupled, a model that is not there": each("nobody", "[]"),
    "decoupled, a wrong datatype": each("repeat", "[pb_utils.Tensor('IN', np.ones(1, np.float32))]"),
    "read twice": each("repeat", "[ints('IN', 4, 2)]", again=True),
    "next beyond the end": """
answers = call('repeat', [ints('IN', 4)], ['OUT']).exec(decoupled=True)
for count in range(4):
    say(shown(next(answers)))""",
    "cancel after the end": each("repeat", "[ints('IN', 4)]") + "\nsay(answers.cancel())",
    "the kind of an iterator": """
answers = call('repeat', [ints('IN', 4)], ['OUT']).exec(decoupled=True)
say(type(answers).__name__)""",
    "async_exec outside of a loop": f"say(shown(call('add', {ADD}).async_exec()))",
    "set_release_flags": f"call('add', {ADD}).set_release_flags(2)\nsay('done')",
    "sequence 1": sequence(3, 5, 1),
    "sequence 2": sequence(4, 5, 0),
    "sequence 3": sequence(5, 5, 2),
    "sequence 4, over": sequence(5, 5, 0),
    "sequence 5, without an id": sequence(1, 0, 1),
    "sequence 6, whole": sequence(1, 6, 3),
}
AWAITED = {
    "awaited": f"say(shown(await call('add', {ADD}).async_exec()))",
    "gathered": """calls = [call('add', [ints('A', 1), ints('B', value)]).async_exec() for value in range(5)]
for answer in await asyncio.gather(*calls):
    say(shown(answer))""",
    "awaited, decoupled": """answers = await call('repeat', [ints('IN', 4, 2)], ['OUT']).async_exec(decoupled=True)
for answer in answers:
    say(shown(answer))""",
    "awaited, a model that is not there": "say(shown(await call('nobody').async_exec()))",
    "blocking in a coroutine": answered(f"call('add', {ADD})"),
}
CONTROL = {
    "is_model_ready": "say(pb_utils.is_model_ready('add'))\nsay(pb_utils.is_model_ready('add', '1'))",
    "is_model_ready of none": "say(pb_utils.is_model_ready('nobody'))",
    "is_model_ready of a version that is not there": "say(pb_utils.is_model_ready('add', '7'))",
    "is_model_ready of a version that is no number": "say(pb_utils.is_model_ready('add', 'x'))",
    "is_model_ready before": "say(pb_utils.is_model_ready('spare'))",
    "load_model": "say(pb_utils.load_model('spare'))\nsay(pb_utils.is_model_ready('spare'))",
    "asking what was loaded": answered(f"call('spare', {ADD})"),
    "load_model again": "say(pb_utils.load_model(model_name='spare'))",
    "load_model of none": "pb_utils.load_model('nobody')",
    "load_model with a configuration": """say(pb_utils.load_model('spare', config=config('A', 'B')))
say(shown(call('spare', [ints('A', 1), ints('B', 2)], ['DIFFERENCE']).exec()))""",
    "load_model with files": """code = b'''
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "A").as_numpy() * 2 for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SUM", array)]) for array in arrays]
'''
say(pb_utils.load_model('fresh', config=config('A'), files={'file:1/model.py': code}))
say(shown(call('fresh', [ints('A', 21)]).exec()))
say(pb_utils.unload_model('fresh'))
say(pb_utils.is_model_ready('fresh'))""",
    "load_model with a bad configuration": "pb_utils.load_model('spare', config='{')",
    "load_model with files and no configuration": "pb_utils.load_model('spare', files={'file:1/model.py': b''})",
    "unload_model": "say(pb_utils.unload_model('spare'))\nsay(pb_utils.is_model_ready('spare'))",
    "unload_model again": "say(pb_utils.unload_model('spare', unload_dependents=True))",
    "unload_model of none": "say(pb_utils.unload_model('nobody'))",
}
TRACED = {
    "with the request's trace": answered(f"call('add', {ADD}, trace=request.trace())"),
    "without": answered(f"call('add', {ADD})"),
    "several": f"""for count in range(2):
    call('add', {ADD}, trace=request.trace()).exec()
call('odd', how('echo'), trace=request.trace()).exec()""",
    "decoupled": """trace = request.trace()
for answer in call('repeat', [ints('IN', 4, 2)], ['OUT'], trace=trace).exec(decoupled=True):
    say(shown(answer))""",
    "a model that raises": answered("call('odd', how('raise'), trace=request.trace())"),
    "refused": answered("call('add', [ints('A', 1)], trace=request.trace())"),
}
