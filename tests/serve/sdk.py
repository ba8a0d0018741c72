# Every call of the SDK, with what it is to answer.
import asyncio
import pathlib

from shipyard import Spec, ShipyardClient


async def refused(call, text):
    try:
        await call
    except Exception as error:
        assert text in str(error), error
    else:
        raise AssertionError("it was not refused: " + text)


async def shells(ship):
    done = (await ship.shell.exec("echo out; echo err >&2; exit 3"))["data"]
    assert (done["stdout"], done["stderr"], done["return_code"], done["success"]) == ("out", "err", 3, False), done
    done = (await ship.shell.exec("echo $A; pwd", cwd=".", env={"A": "x y"}))["data"]
    assert done["stdout"].startswith("x y\n/home/ship_"), done
    done = (await ship.shell.exec("sleep 20", timeout=1))["data"]
    assert (done["return_code"], done["error"]) == (-1, "Command timed out"), done
    done = (await ship.shell.exec("sleep 0.2", background=True))["data"]
    assert len(done["process_id"]) == 8, done


async def files(ship):
    made = (await ship.fs.create_file("a.txt", "one\ntwo\nthree\n"))["data"]
    assert made["success"] and made["message"] == "File created: a.txt", made
    assert (await ship.fs.read_file("a.txt"))["data"]["content"] == "one\ntwo\nthree\n"
    assert (await ship.fs.read_file("a.txt", offset=2, limit=1))["data"]["content"] == "two\n"
    assert (await ship.fs.write_file("a.txt", "four\n", mode="a"))["data"]["success"]
    edited = (await ship.fs.edit_file("a.txt", "two", "2"))["data"]
    assert edited["replacements"] == 1, edited
    await refused(ship.fs.edit_file("a.txt", "nothing", "x"), "'old_string' not found in file")
    await refused(ship.fs.read_file("none"), "File not found: none")
    await refused(ship.fs.read_file("/etc/passwd"), "403")
    listed = (await ship.fs.list_dir())["data"]["files"]
    assert [f["name"] for f in listed if f["is_file"]] == ["a.txt"], listed
    assert (await ship.fs.delete_file("a.txt"))["data"]["message"] == "File deleted: a.txt"


async def python(ship):
    done = (await ship.python.exec("x = 20\nprint('hello')"))["data"]
    assert done["success"] and done["output"]["text"] == "hello", done
    assert (await ship.python.exec("x + 22"))["data"]["output"]["text"] == "42"
    failed = (await ship.python.exec("1/0"))["data"]
    assert not failed["success"] and "ZeroDivisionError" in failed["error"], failed
    slow = (await ship.python.exec("import time; time.sleep(20)", timeout=1))["data"]
    assert slow["error"] == "Code execution timed out after 1 seconds", slow
    assert (await ship.python.exec("x"))["data"]["output"]["text"] == "20"
    for i in range(200):
        done = (await ship.python.exec(f"print({i})"))["data"]
        assert done["output"]["text"] == str(i), (i, done)
    at_once = await asyncio.gather(*(ship.python.exec(f"print('call', {i})") for i in range(8)))
    assert [d["data"]["output"]["text"] for d in at_once] == [f"call {i}" for i in range(8)], at_once


async def transfers(ship):
    here = pathlib.Path("local.bin")
    here.write_bytes(bytes(range(256)) * 1000)
    done = await ship.upload_file(str(here), "up/remote.bin")
    assert done["success"] and done["file_path"].endswith("/workspace/up/remote.bin"), done
    await ship.download_file("up/remote.bin", "back.bin")
    assert pathlib.Path("back.bin").read_bytes() == here.read_bytes()
    await refused(ship.download_file("none.bin"), "404")


async def main():
    async with ShipyardClient() as client:
        ship = await client.create_ship(600, Spec(cpus=1.0, memory="512m"), max_session_num=2, session_id="aaaaaaaa-1")
        again = await client.create_ship(600, session_id="aaaaaaaa-1")
        assert again.id == ship.id
        other = await client.create_ship(600, session_id="aaaaaaaa-2")
        assert other.id == ship.id, "the second session joins"
        await shells(ship)
        await files(ship)
        await transfers(ship)
        await python(ship)
        assert (await other.python.exec("'x' in dir()"))["data"]["output"]["text"] == "False"
        await client.create_ship(600, session_id="bbbbbbbb-3")
        await refused(client.create_ship(600, session_id="cccccccc-4"), "500")
        extended = await ship.extend_ttl(900)
        assert extended["ttl"] == 900, extended
        shown = await client.get_ship(ship.id)
        assert shown["status"] == 1 and shown["current_session_num"] == 2, shown
        assert await client.get_ship("none") is None
        assert "shell/exec" in await ship.get_logs()
        await refused(client._exec_operation(ship.id, "shell/exec", {"command": "id"}, "stranger"), "access")
    print("all done")


asyncio.run(main())
