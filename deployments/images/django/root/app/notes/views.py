from django.http import HttpResponse
from django.utils.html import format_html_join

from .models import Note


def index(request):
    items = format_html_join("", "<li>{}</li>", ((note.title,) for note in Note.objects.order_by("-id")))
    return HttpResponse(f"<!doctype html><title>Notes of your own</title><h1>Notes of your own</h1><ul>{items}</ul>")
