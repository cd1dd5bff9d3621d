from __future__ import annotations

import io

import av
import numpy as np
import pytest

from ssl_pipeline.ingest import video_file
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.video_file import Rationed, decode, refuse

MADE = {
    "mp4": ("mp4", "libx264", "yuv420p"), "mov": ("mov", "png", "rgb24"), "avi": ("avi", "mjpeg", "yuvj420p"),
    "matroska": ("matroska", "ffv1", "bgr0"), "webm": ("webm", "libvpx", "yuv420p"), "gif": ("gif", "gif", "rgb8"),
    "mpegts": ("mpegts", "libx264", "yuv420p"), "mpeg4 in avi": ("avi", "mpeg4", "yuv420p"),
}  # fmt: skip


def marching(count=20, height=48, width=64):
    """A white bar that moves one step to the right a frame, over a red upper left quarter."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, : height // 2, : width // 2, 0] = 200
    for i in range(count):
        frames[i, :, 2 * i : 2 * i + 4] = 255
    return frames


def make(
    container="mp4", codec="libx264", pixels="yuv420p", frames=None, at=None, prepare=lambda stream: None, rate=10
):
    """A video file; `at` are the frames' places on a grid of tenths of a second."""
    frames, file = marching() if frames is None else frames, io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.codec_context.thread_count = 1
        prepare(stream)
        for i, pixels_of_frame in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels_of_frame, "rgb24").reformat(format=pixels)
            frame.pts = at[i] if at else i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def places(data):
    """Where the bar is, in steps, in each frame as it is decoded."""
    rows = [frame.stored.to_ndarray(format="gray")[-8:].mean(0) for frame in decode(data)]
    return [round((row > 128).nonzero()[0].mean() / 2 - 0.75) for row in rows]


def reason(data):
    with pytest.raises(BadSample) as caught:
        list(decode(data))
    return str(caught.value)


@pytest.mark.parametrize("kind", MADE)
def test_every_container_in_presentation_order(kind):
    data = make(*MADE[kind])
    assert places(data) == list(range(20))
    np.testing.assert_allclose([frame.seconds for frame in decode(data)], np.arange(20) / 10, atol=1e-3)


def test_frames_that_are_stored_out_of_order_come_in_order():
    def reordered(stream):
        stream.codec_context.max_b_frames = 3

    data = make(prepare=reordered)
    with av.open(io.BytesIO(data)) as container:
        times = [packet.pts for packet in container.demux() if packet.pts is not None]
    assert times != sorted(times), "the file has no B-frames"
    assert places(data) == list(range(20))


def test_variable_frame_rate():
    at = [0, 1, 2, 7, 8, 30]
    data = make("matroska", "ffv1", "bgr0", marching(6), at)
    np.testing.assert_allclose([frame.seconds for frame in decode(data)], np.array(at) / 10, atol=1e-3)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_come_upright(degrees):
    """FFmpeg's rotation counts counter-clockwise, as numpy's does."""
    data = make("mov", "png", "rgb24", prepare=lambda stream: stream.set_display_rotation(degrees))
    frame = next(decode(data))
    stored = frame.stored.to_ndarray(format="rgb24").transpose(2, 0, 1)
    np.testing.assert_array_equal(frame.turn.apply(stored), np.rot90(stored, degrees // 90, (1, 2)))
    assert frame.size == ((48, 64) if degrees in (0, 180) else (64, 48))
    np.testing.assert_array_equal(frame.square(48, 3), np.rot90(stored[:, :, 8:56], degrees // 90, (1, 2)))


def test_a_mirrored_display_matrix():
    one = 1 << 16
    mirror = [-one, 0, 0, 0, one, 0, 0, 0, 1 << 30]
    frame = next(decode(make("mov", "png", "rgb24", prepare=lambda stream: stream.set_display_matrix(mirror))))
    stored = frame.stored.to_ndarray(format="rgb24").transpose(2, 0, 1)
    np.testing.assert_array_equal(frame.turn.apply(stored), stored[:, :, ::-1])


def test_pixels_that_are_not_square_are_stretched():
    frames = np.zeros((2, 40, 40, 3), np.uint8)
    frames[:, :, 10:30] = 255

    def wide(stream):
        stream.codec_context.sample_aspect_ratio = 2

    frame = next(decode(make("mov", "png", "rgb24", frames, prepare=wide)))
    assert frame.aspect == 2
    assert (frame.square(40, 1)[0, 20, [2, 20, 37]] > 240).all()  # the centre square of 80x40 is all white


def test_grey_and_deep_pixels_keep_their_values():
    frames = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, None, :, None], 64, 1).repeat(2, 0).repeat(3, 3)
    for pixels in ("gray", "gray16le", "bgr0"):
        frame = next(decode(make("matroska", "ffv1", pixels, frames)))
        assert np.abs(frame.square(64, 1)[0].astype(int) - frames[0, :, :, 0]).max() <= 1, pixels


def test_transparency_is_white():
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as out:
        stream = out.add_stream("png", rate=10)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "rgba"
        for i in range(2):
            pixels = np.zeros((16, 16, 4), np.uint8)
            pixels[:, :8, 3] = 255
            frame = av.VideoFrame.from_ndarray(pixels, "rgba")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    square = next(decode(file.getvalue())).square(16, 3)
    assert (square[:, :, :8] == 0).all() and (square[:, :, 8:] == 255).all()


def test_what_is_no_video():
    assert reason(b"") == "empty file"
    assert reason(b"plain text, nothing more") == "not a video"
    assert reason(b"\x89PNG\r\n\x1a\n" + bytes(100)) == "not a video"
    assert reason(b"\0\0\0\x20ftypisom" + bytes(200)).startswith("damaged mp4: ")
    assert reason(make("avi", "asv1", "yuv420p")) == "unsupported codec: asv1"
    sound = io.BytesIO()
    with av.open(sound, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    assert reason(sound.getvalue()) == "not a video: no video stream"


SCRIPTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{file}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{file}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000"><BaseURL>{file}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_list_of_other_files_is_refused(script, tmp_path):
    (tmp_path / "private.ts").write_bytes(make("mpegts"))
    data = SCRIPTS[script].format(file=tmp_path / "private.ts").encode()
    assert reason(data) == "not a video"


def test_ffmpeg_may_open_nothing_besides_even_where_it_is_told_that_it_is_a_playlist(tmp_path):
    (tmp_path / "private.ts").write_bytes(make("mpegts"))
    data = SCRIPTS["hls"].format(file=tmp_path / "private.ts").encode()
    (tmp_path / "list.m3u8").write_bytes(data)
    with av.open(str(tmp_path / "list.m3u8")) as followed:  # it would be followed
        assert next(followed.decode(video=0)).width == 64
    asked = []

    def note(url, flags, options):
        asked.append(url)
        return refuse(url, flags, options)

    with (
        pytest.raises((PermissionError, av.FFmpegError)),
        av.open(Rationed(data), format="hls", io_open=note) as opened,
    ):
        next(opened.decode(video=0))
    assert asked and "private.ts" in asked[0]


def test_oversized_is_refused_by_the_header(monkeypatch):
    data = make()
    monkeypatch.setattr(video_file, "MAX_PIXELS", 64 * 48 - 1)
    assert reason(data).startswith("oversized: 64x48 pixels")


def test_frames_larger_than_the_header_says_are_refused(monkeypatch):
    data = make()
    true_check = video_file.picture_stream

    def lying(container):
        stream = true_check(container)
        stream.codec_context.options = {"max_pixels": str(64 * 48 - 1)}
        return stream

    monkeypatch.setattr(video_file, "picture_stream", lying)
    assert reason(data).startswith("damaged mp4")


def test_a_video_without_end_is_refused(monkeypatch):
    data = make()
    monkeypatch.setattr(video_file, "MAX_FRAMES", 10)
    assert reason(data).startswith("oversized: 11 frames")
    monkeypatch.undo()
    monkeypatch.setattr(video_file, "MAX_DECODED", 10 * 64 * 48)
    assert reason(data).startswith("oversized: 11 frames")


def test_an_index_that_leads_in_circles_is_stopped():
    file = Rationed(bytes(100))
    file.ration = 250
    for _ in range(2):
        assert len(file.read(1000)) == 100
        file.seek(0)
    with pytest.raises(BadSample, match="circles"):
        file.read(1000)


@pytest.mark.parametrize("kind", ["matroska", "avi", "mpegts", "gif", "mpeg4 in avi"])
def test_what_is_cut_off_ends_with_its_last_whole_frame(kind):
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
    data = make(*MADE[kind], noise)
    whole = [frame.stored.to_ndarray(format="rgb24") for frame in decode(data)]
    kept = [frame.stored.to_ndarray(format="rgb24") for frame in decode(data[: len(data) * 2 // 3])]
    assert 1 < len(kept) < len(whole)
    kept = kept[: -1 if kind == "gif" else None]  # FFmpeg says nothing of half a picture there
    for a, b in zip(kept, whole, strict=False):
        np.testing.assert_array_equal(a, b)


def test_without_its_index_an_mp4_is_damaged():
    data = make()
    assert reason(data[: len(data) // 2]).startswith("damaged mp4")


def test_a_damaged_frame_ends_the_video():
    data = bytearray(make("matroska", "ffv1", "bgr0"))
    with av.open(io.BytesIO(bytes(data))) as container:
        packets = [bytes(packet) for packet in container.demux(video=0)]
    where = bytes(data).index(packets[12]) + 20
    data[where : where + 40] = bytes(40)
    assert places(bytes(data)) == list(range(12))


def test_any_bytes_give_frames_or_a_reason():
    random = np.random.default_rng(0)
    for kind in ("mp4", "matroska", "avi", "mpegts", "gif", "webm"):
        whole = make(*MADE[kind], marching(6))
        for _ in range(25):
            data = bytearray(whole)
            for place in random.integers(0, len(data), random.integers(1, 12)):
                data[place] = random.integers(256)
            data = data[: random.integers(16, len(data) + 1)]
            try:
                assert all(frame.square(8, 3).shape == (3, 8, 8) for frame in decode(bytes(data)))
            except BadSample as bad:
                assert str(bad)


def test_decoding_reads_no_further_than_it_is_asked(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
    data, read = make("matroska", "ffv1", "bgr0", noise), []

    class Watched(Rationed):
        def read(self, size=-1):
            read.append(super().read(size))
            return read[-1]

    monkeypatch.setattr(video_file, "Rationed", Watched)
    next(decode(data))
    assert sum(map(len, read)) < len(data) / 2
