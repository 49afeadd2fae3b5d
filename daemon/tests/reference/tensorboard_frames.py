"""Prints the expected values for daemon/training/src/tensorboard.rs, made by tensorboard's own code.

pip install tensorboard; python3 tensorboard_frames.py
"""
import io

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Kept(io.BytesIO):
    def close(self):
        pass


for content in (b"", b"diptych"):
    file = Kept()
    writer = RecordWriter(file)
    writer.write(content)
    writer.flush()
    print(content, file.getvalue().hex())
value = Summary.Value(tag="loss", simple_value=2.5)
print(Event(wall_time=1.5, step=300, summary=Summary(value=[value])).SerializeToString().hex())
print(Event(wall_time=1.5, step=7, session_log=SessionLog(status=SessionLog.START)).SerializeToString().hex())
