# Runs the Python of one session. Requests come on descriptor 0 and answers leave on 1, until both are moved out of the way;
# what the code writes goes to descriptor 2, which is read on the other side, so that nobody here has to.
#
# A frame is four bytes of length, most significant first, and JSON.
import sys

# The directory of the session must not be where this file's own modules come from.
here = sys.path and sys.path[0] == ""
if here:
    del sys.path[0]

import ast, base64, builtins, fcntl, importlib.abc, importlib.machinery, io, json, linecache, os, signal, struct
import traceback, types, warnings

HIGH = 40
MOST_IMAGES = 24 << 20
MOST_ERROR = 1 << 20

requests = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, HIGH)
answers = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, HIGH)
output = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, HIGH)
nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
own_pid = os.getpid()

try:
    import ctypes

    c_library = ctypes.CDLL(None)
except Exception:
    c_library = None


class StdinNotImplementedError(NotImplementedError):
    pass


class Cell:
    """What is known of the code that runs."""

    busy = False
    count = 0
    images = []
    size = 0
    error = None
    leaving = False


cell = Cell()


def streams():
    """Descriptors and streams as code expects them, whatever the code before has done to them."""
    for fd, target in ((0, nothing), (1, output), (2, output)):
        os.dup2(target, fd)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        known = originals.get(name)
        if known is None or known.closed:
            raw = io.FileIO(fd, "w", closefd=False)
            known = io.TextIOWrapper(
                io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
            )
            originals[name] = known
        setattr(sys, name, known)
        setattr(sys, "__%s__" % name, known)


originals = {}


def flush():
    for stream in {id(s): s for s in (sys.stdout, sys.stderr, *originals.values())}.values():
        try:
            stream.flush()
        except Exception:
            pass
    if c_library is not None:
        try:
            c_library.fflush(None)
        except Exception:
            pass


def no_input(*_):
    raise StdinNotImplementedError(
        "raw_input was called, but this frontend does not support input requests."
    )


def on_interrupt(*_):
    if cell.busy:
        raise KeyboardInterrupt


def after_fork():
    # A child that outlives the kernel must not answer for it, nor keep it from being seen to end.
    for fd in (requests, answers):
        try:
            os.close(fd)
        except OSError:
            pass


def add_image(data):
    if isinstance(data, bytes):
        data = base64.b64encode(data).decode()
    data = data.replace("\n", "")
    cell.size += len(data)
    if cell.size > MOST_IMAGES:
        originals["stdout"].write("[an image was left out: there are too many]\n")
    else:
        cell.images.append(data)


def show(data, result=False):
    """What is displayed: text as output, images beside it."""
    image = data.get("image/png")
    if image is not None:
        add_image(image)
    text = data.get("text/plain")
    if text is not None and (result or image is None):
        out = originals["stdout"]
        out.write(text)
        out.write("\n")
        out.flush()


# Figures of matplotlib: they are images of the cell that made them.

BACKEND = """
from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvas
from matplotlib.backend_bases import FigureManagerBase as FigureManager

def show(*args, **kwargs):
    flush_figures()
"""


class Backend(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    name = "vesselrt_inline"

    def find_spec(self, name, path=None, target=None):
        if name == "matplotlib.pyplot":
            self.choose()
        return importlib.machinery.ModuleSpec(name, self) if name == self.name else None

    def choose(self):
        # Not by a variable of the environment: programs that the code starts would have it, but not this module.
        matplotlib = sys.modules.get("matplotlib")
        configured = getattr(matplotlib, "rcParamsOrig", None)
        if configured is None or "MPLBACKEND" in os.environ:
            return
        # What a configuration file says is for who has a display; what code has chosen since stays.
        if dict.get(matplotlib.rcParams, "backend") == dict.get(configured, "backend"):
            matplotlib.rcParams["backend"] = "module://" + self.name

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.flush_figures = flush_figures
        exec(compile(BACKEND, "<%s>" % self.name, "exec"), module.__dict__)


def flush_figures():
    plt = sys.modules.get("matplotlib.pyplot")
    if plt is None or Backend.name not in sys.modules:
        return
    for number in plt.get_fignums():
        figure = plt.figure(number)
        if figure.axes or figure.lines or figure.texts:
            data = io.BytesIO()
            figure.savefig(data, format="png", bbox_inches="tight")
            add_image(data.getvalue())
    plt.close("all")


# With IPython.


def with_ipython():
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Publisher(DisplayPublisher):
        def publish(self, data, *args, **kwargs):
            show(data)

        def clear_output(self, wait=False):
            pass

    class Hook(DisplayHook):
        def write_output_prompt(self):
            pass

        def write_format_data(self, format_dict, md_dict=None):
            show(format_dict, result=True)

        def finish_displayhook(self):
            flush()

        def cull_cache(self):
            # It would say so in the middle of what the call is answered.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                super().cull_cache()

    class Shell(InteractiveShell):
        displayhook_class = Hook
        display_pub_class = Publisher

        def enable_gui(self, gui=None):
            pass

        def ask_exit(self):
            cell.leaving = True

        def _showtraceback(self, etype, evalue, stb):
            cell.error = stb if isinstance(stb, str) else "\n".join(stb)

    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    shell = Shell.instance(config=config)

    def run(code, silent):
        count = shell.execution_count
        result = shell.run_cell(code, store_history=not silent, silent=silent)
        cell.count = count
        error = result.error_before_exec or result.error_in_exec
        if error is not None and cell.error is None:
            cell.error = "%s: %s" % (type(error).__name__, error)

    return run


# Without.


def without_ipython():
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    space = main.__dict__
    state = {"count": 0, "silent": False}

    def hook(value):
        if value is None or state["silent"]:
            return
        builtins._ = value
        data = {"text/plain": repr(value)}
        image = getattr(type(value), "_repr_png_", None)
        if image is not None:
            data["image/png"] = image(value)
        show(data, result=True)

    def execute(code, name):
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), space)
        if last is not None:
            exec(compile(ast.Interactive([last]), name, "single"), space)

    def run(code, silent):
        number = state["count"] + 1
        if not silent:
            state["count"] = number
        cell.count, state["silent"] = number, silent or code.rstrip().endswith(";")
        name = "<ipython-input-%d>" % number
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        linecache.cache.pop("<ipython-input-%d>" % (number - 1000), None)
        sys.displayhook = hook
        try:
            execute(code, name)
        except BaseException as error:
            trace = error.__traceback__
            while trace is not None and trace.tb_frame.f_code.co_filename != name:
                trace = trace.tb_next
            lines = traceback.format_exception(type(error), error, trace)
            cell.error = "".join(lines).rstrip("\n")

    return run


def read(length):
    data = b""
    while len(data) < length:
        part = os.read(requests, length - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def answer(value):
    data = json.dumps(value).encode()
    data = struct.pack(">I", len(data)) + data
    while data:
        data = data[os.write(answers, data):]


def run_cell(run, code, silent):
    """Runs code; whatever happens in it, an interrupt included, ends here."""
    try:
        try:
            cell.busy = True
            run(code, silent)
            flush_figures()
        finally:
            cell.busy = False
    except BaseException as error:
        cell.busy = False
        if cell.error is None:
            cell.error = "".join(traceback.format_exception_only(type(error), error)).rstrip("\n")


def text_of(error):
    if error is None:
        return None
    if len(error) > MOST_ERROR:
        error = error[: MOST_ERROR // 2] + "\n[...]\n" + error[-MOST_ERROR // 2 :]
    return error.encode("utf-8", "replace").decode()


def main():
    streams()
    signal.signal(signal.SIGINT, on_interrupt)
    os.register_at_fork(after_in_child=after_fork)
    sys.meta_path.insert(0, Backend())
    builtins.input = no_input
    sys.argv = [""]
    try:
        run = with_ipython()
    except Exception:
        run = without_ipython()
    if "" not in sys.path:
        sys.path.insert(0, "")
    answer({"ready": True})
    while True:
        request = json.loads(read(struct.unpack(">I", read(4))[0]))
        streams()
        signal.signal(signal.SIGINT, on_interrupt)
        cell.images, cell.size, cell.error = [], 0, None
        run_cell(run, request["code"], request["silent"])
        flush()
        if os.getpid() != own_pid:
            os._exit(0)
        try:
            error = text_of(cell.error)
            reply = {"id": request["id"], "count": cell.count, "images": cell.images, "error": error}
        except BaseException:
            reply = {"id": request["id"], "count": cell.count, "images": [], "error": "MemoryError"}
        reply["leaving"] = cell.leaving
        answer(reply)
        if cell.leaving:
            os._exit(0)


main()
