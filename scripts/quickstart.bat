@echo off
rem Builds the programs, starts a cluster on this machine, each server in a new window, and opens the client.
rem Leaving the client stops the cluster. What was stored stays in data\quickstart-..., for the next start.
rem Needs Windows 10 or newer and a Rust toolchain, nothing else.
rem Other ports: "set PORT=6000" before the call; the nodes take the three ports that follow it.

setlocal EnableExtensions
cd /d "%~dp0.."
if not defined PORT set PORT=5000
set /a NODE_1=PORT+1
set /a NODE_2=PORT+2
set /a NODE_3=PORT+3

where cargo >nul 2>nul
if errorlevel 1 (
    echo quickstart: cargo was not found: install Rust, see https://rustup.rs
    exit /b 3
)

rem Is there room for it? A listening socket has the remote address 0.0.0.0:0, in every language of Windows.
for %%P in (%PORT% %NODE_1% %NODE_2% %NODE_3%) do (
    netstat -an -p TCP | findstr /r /c:":%%P  *0\.0\.0\.0:0 " >nul
    if not errorlevel 1 (
        echo quickstart: port %%P is taken by another program. Nothing was started.
        echo Stop that program, or choose other ports, as in: set PORT=6000
        exit /b 3
    )
)

echo Building the programs. The first time takes a minute or two.
cargo build --quiet --release --locked -p coordinator -p node -p client
if errorlevel 1 (
    echo quickstart: the build has failed
    exit /b 3
)
set PROGRAMS=target\release
if defined CARGO_TARGET_DIR set PROGRAMS=%CARGO_TARGET_DIR%\release

echo Starting a coordinator on port %PORT% and nodes on ports %NODE_1% to %NODE_3%.
rem Other ports are another cluster. In the end the servers are stopped by force: only --fsync always keeps the data.
set DATA=data\quickstart-%PORT%-%NODE_1%-3
rem A start that was interrupted may leave nodes of a cluster whose coordinator has not kept it. Nobody has used it.
if exist "%DATA%" if not exist "%DATA%\ready" rmdir /s /q "%DATA%"
set NODE="%PROGRAMS%\node.exe" --coordinator-port %PORT% --fsync always
echo Data: %DATA%
start "coordinator %PORT%" "%PROGRAMS%\coordinator.exe" --port %PORT% --data-dir "%DATA%\coordinator"
start "node %NODE_1%" %NODE% --port %NODE_1% --data-dir "%DATA%\node-%NODE_1%"
start "node %NODE_2%" %NODE% --port %NODE_2% --data-dir "%DATA%\node-%NODE_2%"
start "node %NODE_3%" %NODE% --port %NODE_3% --data-dir "%DATA%\node-%NODE_3%"

rem Wait until all three are registered: 30 tries, a second or more each. "ping" is the pause that needs no keyboard.
set CODE=3
set TRIES=0
set LISTED=%TEMP%\quickstart-nodes-%PORT%.txt
:wait
set /a TRIES+=1
if %TRIES% gtr 30 (
    echo quickstart: not all nodes have registered. To see why, start them by hand: %PROGRAMS%\coordinator.exe --port %PORT%, and in another window %PROGRAMS%\node.exe %NODE_1% --coordinator-port %PORT%
    goto stop
)
ping -n 2 127.0.0.1 >nul
"%PROGRAMS%\client.exe" --port %PORT% --timeout 1s --command LIST_NODES >"%LISTED%" 2>nul
for %%P in (%NODE_1% %NODE_2% %NODE_3%) do (
    findstr /c:"127.0.0.1:%%P" "%LISTED%" >nul
    if errorlevel 1 goto wait
)
del "%LISTED%" >nul 2>nul
rem The first map of a new cluster stands a second after its first node has come.
ping -n 3 127.0.0.1 >nul

type nul >"%DATA%\ready"
echo The cluster is ready. Leaving the client stops it.
"%PROGRAMS%\client.exe" --port %PORT%
set CODE=%ERRORLEVEL%

rem The ports were free before: whoever listens on them now was started here.
:stop
for %%P in (%NODE_1% %NODE_2% %NODE_3% %PORT%) do (
    for /f "tokens=5" %%A in ('netstat -ano -p TCP ^| findstr /r /c:":%%P  *0\.0\.0\.0:0 "') do (
        taskkill /f /pid %%A >nul 2>nul
    )
)
exit /b %CODE%
