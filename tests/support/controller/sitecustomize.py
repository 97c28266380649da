"""Run Ansible cheaply; Python imports this at its start where PYTHONPATH leads here.

Ansible forks for each task and host, and where such a short process collects garbage it copies all the memory that it
shares. Without that, site.yml with nothing to do takes 11.0 s of processor time in place of 12.1 s.

It forks for a task whose condition is not met too; here such a task is answered for without a process.

And each run packs each module anew. Where VPS_MODULES names a folder, the packed ones are kept there for the next run;
the checkout has to stay as it is meanwhile.
"""

import copy
import gc
import multiprocessing.process
import os
import tempfile

os.register_at_fork(before=gc.freeze, after_in_child=gc.disable)

fork = multiprocessing.process.BaseProcess.start


def start(process):
    if type(process).__name__ != "WorkerProcess" or not is_skipped(process):
        fork(process)


def is_skipped(worker):
    """Whether the task's condition is not met, which its strategy has been told then; in doubt it is not."""
    from ansible.executor.task_result import _RawTaskResult
    from ansible.utils.display import Display

    task, host = worker._task, copy.copy(worker._host)
    if not task.when or task.loop is not None or task.loop_with or task.delegate_to or task.no_log:
        return False
    said = {}
    try:
        if task._resolve_conditional(task.when, worker._task_vars, result_context=said):
            return False
    except Exception:
        return False
    host.vars, host.groups = {}, []
    data = {"changed": False, "skipped": True, "skip_reason": "Conditional result was False", **said}
    result = _RawTaskResult(host=host, task=task, return_data=data, task_fields=task.dump_attrs())
    # Ansible holds this lock while it forks. The queue can be full of the output of other tasks, and the thread that
    # empties it needs the lock for each line.
    Display()._lock.release()
    try:
        worker._final_q.send_task_result(result)
    finally:
        Display()._lock.acquire()
    return True


multiprocessing.process.BaseProcess.start = start

if modules := os.environ.get("VPS_MODULES"):
    make_folder = tempfile.mkdtemp

    def mkdtemp(suffix=None, prefix=None, dir=None):
        folder = make_folder(suffix, prefix, dir)
        if prefix and prefix.startswith("ansible-local-"):
            os.makedirs(modules, exist_ok=True)
            os.symlink(modules, os.path.join(folder, "ansiballz_cache"))
        return folder

    tempfile.mkdtemp = mkdtemp
