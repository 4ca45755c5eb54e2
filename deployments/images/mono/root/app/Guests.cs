using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Net;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

/// A guest book: the entries are in memory and in a file, a timer counts seconds.
static class Guests
{
    static readonly List<string> Entries = new List<string>();
    static int seconds;

    static void Main()
    {
        var listener = new HttpListener();
        listener.Prefixes.Add("http://*:" + Environment.GetEnvironmentVariable("PORT") + "/");
        listener.Start();
        using (new Timer(_ => Interlocked.Increment(ref seconds), null, 1000, 1000))
        {
            while (true)
            {
                var context = listener.GetContext();
                Task.Run(() => Answer(context));
            }
        }
    }

    static async Task Answer(HttpListenerContext context)
    {
        try
        {
            if (context.Request.HttpMethod == "POST") await Write(context);
            else await Show(context);
        }
        catch (Exception error)
        {
            Console.Error.WriteLine(error);
            context.Response.StatusCode = 500;
        }
        context.Response.Close();
    }

    static async Task Write(HttpListenerContext context)
    {
        string text;
        using (var reader = new StreamReader(context.Request.InputStream, Encoding.UTF8)) text = await reader.ReadToEndAsync();
        text = WebUtility.UrlDecode(text.Substring(text.IndexOf('=') + 1));
        lock (Entries)
        {
            Entries.Insert(0, text);
            File.WriteAllLines("guests.txt", Entries);
        }
        context.Response.StatusCode = 303;
        context.Response.AddHeader("Location", "/");
    }

    static async Task Show(HttpListenerContext context)
    {
        string items;
        lock (Entries) items = string.Concat(Entries.Select(entry => "<li>" + WebUtility.HtmlEncode(entry) + "</li>"));
        int stored = File.Exists("guests.txt") ? File.ReadAllLines("guests.txt").Length : 0;
        var page = "<!doctype html><title>Guests of your own</title><h1>Guests of your own</h1>"
            + "<form method=post><input name=text><button>Write</button></form>"
            + "<p><b id=\"stored\">" + stored + "</b> in the file, <b id=\"seconds\">" + seconds + "</b> seconds</p><ul>" + items + "</ul>";
        var bytes = Encoding.UTF8.GetBytes(page);
        context.Response.ContentType = "text/html; charset=utf-8";
        context.Response.ContentLength64 = bytes.Length;
        await context.Response.OutputStream.WriteAsync(bytes, 0, bytes.Length);
    }
}
